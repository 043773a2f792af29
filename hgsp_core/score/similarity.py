"""`similarity`: how far a layer or block turns the residual stream; Block Influence of ShortGPT, eq. 1 (R3)."""

from hgsp_core.artifacts import Priors
from hgsp_core.engine.collectors import ResidualCosine
from hgsp_core.plugin.method import Params
from hgsp_core.score.contract import Prior, PriorJob


class Similarity(Prior[Params]):
    collectors = (ResidualCosine(),)

    def __call__(self, job: PriorJob) -> Priors:
        return Priors.of(job.layout, job.statistics[ResidualCosine()])
