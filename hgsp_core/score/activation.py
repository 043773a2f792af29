"""`activation`: mean over tokens of the L2 norm of what leaves a layer, and of what a block adds (R3)."""

from hgsp_core.artifacts import Priors
from hgsp_core.engine.collectors import OutputNorm
from hgsp_core.plugin.method import Params
from hgsp_core.score.contract import Prior, PriorJob


class Activation(Prior[Params]):
    collectors = (OutputNorm(),)

    def __call__(self, job: PriorJob) -> Priors:
        return Priors.of(job.layout, job.statistics[OutputNorm()])
