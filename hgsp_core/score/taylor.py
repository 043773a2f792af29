"""`taylor`: first-order estimate of what the loss loses with a unit, Σ |W·g| over its weights (R2)."""

from hgsp_core.artifacts import Scores
from hgsp_core.engine.collectors import TaylorAbs
from hgsp_core.plugin.method import Params
from hgsp_core.score.contract import ScoreJob, Scorer


class Taylor(Scorer[Params]):
    collectors = (TaylorAbs(),)

    def __call__(self, job: ScoreJob) -> Scores:
        return Scores.of(job.layout, job.statistics[TaylorAbs()])
