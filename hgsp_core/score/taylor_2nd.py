"""`taylor_2nd`: Σ |W·g| + Σ ½ W²·H over a unit's weights, H the mean of squared batch gradients (R2)."""

from pydantic import Field

from hgsp_core.artifacts import Scores
from hgsp_core.plugin.method import Params
from hgsp_core.score.contract import ScoreJob, Scorer


class Taylor2ndParams(Params):
    batch: int = Field(4, ge=1, description="samples of one gradient g_b in H = mean of g_b²")


class Taylor2nd(Scorer[Taylor2ndParams]):
    def __init__(self, params: Taylor2ndParams):
        from hgsp_core.engine.collectors import TaylorAbs, TaylorCurvature

        self.collectors = (TaylorAbs(), TaylorCurvature(params.batch))

    def __call__(self, job: ScoreJob) -> Scores:
        first, second = (job.statistics[collector] for collector in self.collectors)
        return Scores.of(
            job.layout, [{axis: a[axis] + b[axis] for axis in a} for a, b in zip(first, second, strict=True)]
        )
