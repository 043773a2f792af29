"""`l2`: Σ W² over a unit's weights; needs no calibration data (R2)."""

from hgsp_core.artifacts import Scores
from hgsp_core.engine.collectors import WeightSquare
from hgsp_core.plugin.method import Params
from hgsp_core.score.contract import ScoreJob, Scorer


class L2(Scorer[Params]):
    collectors = (WeightSquare(),)

    def __call__(self, job: ScoreJob) -> Scores:
        return Scores.of(job.layout, job.statistics[WeightSquare()])
