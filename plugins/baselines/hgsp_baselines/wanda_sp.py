"""`wanda-sp`: Wanda for structures, as the authors of FLAP compare with it (An et al. 2023, arXiv 2312.11983).

Importance of a unit = Σ over its columns j of o_proj (down_proj) of ‖X_j‖₂ · Σ_i |W_ij|, X the inputs of that linear over
all calibration tokens. Rows (q, k, v, gate, up) count nothing, unlike in `wanda`. The paper takes the mean over i, which
is the same order inside a block; blocks are not compared with each other there, so use it with a uniform allocation.
"""

from hgsp_baselines.collectors import WriterColumns
from hgsp_core import Params, ScoreJob, Scorer, Scores
from hgsp_core.engine.collectors import InputNorm


class WandaSp(Scorer[Params]):
    """Applies Wanda to the columns of o_proj and down_proj alone.

    Formula: `Σ_j ‖X_j‖₂ · Σ_i |W_ij|` over the unit's columns j.
    Source: the baseline of FLAP (An et al. 2023, arXiv 2312.11983), after Wanda.
    Cost: one forward.
    When: with `uniform`; better than `wanda` for entire units.
    """

    collectors = (WriterColumns(), InputNorm())

    def __call__(self, job: ScoreJob) -> Scores:
        columns, norms = (job.statistics[collector] for collector in self.collectors)
        importance = []
        for layer in job.layout.layers:
            found = {}
            for axis, block in layer.written.items():
                linear = block.writer.local
                by_column = columns[layer.index][f"{linear}.abs"] * norms[layer.index][linear]  # [units * width]
                heads = by_column.reshape(block.units, block.writer.heads, -1).sum(2)
                found[axis] = heads.sum(1)
                if block.heads > 1:
                    found[f"{axis}.heads"] = heads
            importance.append(found)
        return Scores.of(job.layout, importance)
