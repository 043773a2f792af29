"""FLAP (An et al. 2023, arXiv 2312.11983): prune inputs that hardly fluctuate.

Score ("WIFV", weighted input feature variance): m_j = Var(X_j) · ‖W_:,j‖² of each column j of o_proj and down_proj, X its inputs over
all tokens. Each block's m is standardised over its columns, (m − mean) / deviation, so that blocks of all layers and of both kinds
compare (the structure AL-AM of the paper); an attention group has the mean of its columns, which keeps it on the scale
of the MLP's channels. These are the scores as they are, not divided by the units' cost: a standardised number has no
unit to divide, and half of them are below 0, where a division would turn costly groups into the *better* ones. Cost
counts where the paper counts it: the knapsack (`hgsp` with temperature 0) pays each unit from the common budget.

The code that the authors published also squares m of attention before it standardises; the paper does not, nor does this.

Its bias compensation is the reconstructor `bias` of hgsp-core.
"""

import numpy as np

from hgsp_baselines.collectors import WriterColumns
from hgsp_core import Params, ScoreJob, Scorer, Scores
from hgsp_core.engine.collectors import InputMoments


class Flap(Scorer[Params]):
    """Scores units by how much their input fluctuates.

    Formula: `m_j = Var(X_j)·‖W_:,j‖²`, standardised over the columns of each block; the score is the mean over the
        unit's columns.
    Source: FLAP (An et al. 2023, arXiv 2312.11983): WIFV, structure AL-AM.
    Cost: one forward.
    When: with `hgsp` at temperature 0.
    Notes: The score is not divided by the cost of the unit. `importance` in the table is Σ m_j over the unit's
        columns, before standardisation.
    """

    collectors = (WriterColumns(), InputMoments())

    def __call__(self, job: ScoreJob) -> Scores:
        columns, moments = (job.statistics[collector] for collector in self.collectors)
        importance: list[dict[str, np.ndarray]] = []
        score: list[np.ndarray] = []
        for layer in job.layout.layers:
            importance.append({})
            for axis, block in layer.written.items():
                linear = block.writer.local
                m = moments[layer.index][f"{linear}.variance"] * columns[layer.index][f"{linear}.square"]
                shape = (block.units, block.writer.width)
                importance[-1][axis] = m.reshape(shape).sum(1)
                if block.heads > 1:
                    importance[-1][f"{axis}.heads"] = m.reshape(block.units, block.writer.heads, -1).sum(2)
                score.append(standardised(m).reshape(shape).mean(1))
        return Scores.of(job.layout, importance).with_score(np.concatenate(score))


def standardised(m: np.ndarray) -> np.ndarray:
    """(m − mean) / sample deviation; 0 where all of m [columns] is equal."""
    centred = m - m.mean()
    deviation = m.std(ddof=1) if len(m) > 1 else 0.0
    return centred / deviation if deviation > 0 else np.zeros_like(centred)
