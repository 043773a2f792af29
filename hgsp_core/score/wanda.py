"""`wanda`: Σ |W_ij|·‖X_j‖₂ over a unit's weights, X the inputs over all calibration tokens; no gradients (R2)."""

from hgsp_core.artifacts import Scores
from hgsp_core.engine.collectors import WandaAbs
from hgsp_core.plugin.method import Params
from hgsp_core.score.contract import ScoreJob, Scorer


class Wanda(Scorer[Params]):
    collectors = (WandaAbs(),)

    def __call__(self, job: ScoreJob) -> Scores:
        return Scores.of(job.layout, job.statistics[WandaAbs()])
