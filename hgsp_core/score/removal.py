"""`removal`: what the loss gains when a layer, or only its attention or MLP, is skipped (R3)."""

from pydantic import Field

from hgsp_core.artifacts import Priors
from hgsp_core.plugin.method import Params
from hgsp_core.score.contract import Prior, PriorJob


class RemovalParams(Params):
    samples: int = Field(50, ge=1, description="calibration samples, from the first one")


class Removal(Prior[RemovalParams]):
    def __init__(self, params: RemovalParams):
        from hgsp_core.engine.collectors import RemovalLoss  # torch; the params above are read without it

        self.collectors = (RemovalLoss(params.samples),)

    def __call__(self, job: PriorJob) -> Priors:
        return Priors.of(job.layout, job.statistics[self.collectors[0]])
