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
    """Measures how much a layer or block changes the direction of the residual stream.

    Formula: `1 − mean of cos(before, after)` over the tokens, of the residual stream before and after the layer or
        block.
    Source: Block Influence, ShortGPT (Men et al. 2024), eq. 1.
    Cost: one forward; no extra pass with `taylor`.
    When: the default, for the gate of `hgsp`.
    """

    collectors = (ResidualCosine(),)


class Activation(OneStatistic[Params]):
    """Measures the norm of a layer's output, and of what each block adds.

    Formula: `mean of ‖h‖₂` over the tokens, where h is the output.
    Source: `layer_importance.py` of the research scripts.
    Cost: one forward; no extra pass with `taylor`.
    When: comparing with the research scripts.
    """

    collectors = (OutputNorm(),)


class Removal(OneStatistic[RemovalParams]):
    """Measures how much the loss rises when a layer is skipped, or only its attention, or only its MLP.

    Formula: loss without it − loss, on the first `samples` windows.
    Source: `layer_importance.py` of the research scripts.
    Cost: N/2 forwards for N skipped layers (or attentions, or MLPs), in one pass over the weights.
    When: the most direct measure; for deep models.
    """

    def __init__(self, params: RemovalParams):
        super().__init__(params)
        self.collectors = (RemovalLoss(params.samples),)
