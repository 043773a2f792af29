"""The priors that are measured: importance of layers, and of their attention and MLP."""

from hgsp_core.artifacts import Priors
from hgsp_core.engine.collectors import OutputNorm, RemovalLoss, ResidualCosine
from hgsp_core.plugin.method import P, Params
from hgsp_core.score.contract import Prior, PriorJob
from hgsp_core.score.params import RemovalParams


class OneStatistic(Prior[P]):
    """A prior whose collector already gives the importance of each layer and block."""

    def __call__(self, job: PriorJob) -> Priors:
        (collector,) = self.collectors
        return Priors.of(job.layout, job.statistics[collector])


class Similarity(OneStatistic[Params]):
    """How far a layer or block turns the residual stream: Block Influence (ShortGPT, Men et al. 2024, eq. 1)."""

    collectors = (ResidualCosine(),)


class Activation(OneStatistic[Params]):
    """Mean over tokens of the L2 norm of a layer's output, and of what a block adds."""

    collectors = (OutputNorm(),)


class Removal(OneStatistic[RemovalParams]):
    """What the loss gains when a layer, or only its attention or MLP, is skipped."""

    def __init__(self, params: RemovalParams):
        super().__init__(params)
        self.collectors = (RemovalLoss(params.samples),)
