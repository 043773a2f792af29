"""The scorers: importance of units, from what the engine has summed over each unit's weights W, gradients g and inputs X."""

import numpy as np

from hgsp_core.artifacts import Scores
from hgsp_core.engine.collectors import (
    OutputError,
    TaylorAbs,
    TaylorCurvature,
    WandaAbs,
    WeightAbs,
    WeightSquare,
)
from hgsp_core.plugin.method import P, Params
from hgsp_core.score.contract import ScoreJob, Scorer
from hgsp_core.score.params import ObsParams, Taylor2ndParams


class OneStatistic(Scorer[P]):
    """A scorer whose collector already gives the importance of each unit."""

    def __call__(self, job: ScoreJob) -> Scores:
        (collector,) = self.collectors
        return Scores.of(job.layout, job.statistics[collector])


class Taylor(OneStatistic[Params]):
    """Σ |W·g|: first-order estimate of the loss without the unit (Molchanov et al. 2019, eq. 8, per weight)."""

    collectors = (TaylorAbs(),)


class Wanda(OneStatistic[Params]):
    """Σ |W_ij|·‖X_j‖₂, X the inputs over all calibration tokens; no gradients (Sun et al. 2023, eq. 1)."""

    collectors = (WandaAbs(),)


class Output(OneStatistic[Params]):
    """Σ |W_S (x_S − mean)|² over the tokens, x the writer's input and S the columns of the unit (after FLAP, An et al. 2024)."""

    collectors = (OutputError(),)


class Obs(OneStatistic[ObsParams]):
    """tr(W_S [(H⁻¹)_SS]⁻¹ W_Sᵀ): Hassibi & Stork 1993 for a set of columns, as SlimGPT (Ling et al. 2024) scores groups."""

    def __init__(self, params: ObsParams):
        super().__init__(params)
        self.collectors = (OutputError(params.damping),)


class Magnitude(OneStatistic[Params]):
    """Σ |W|; needs no calibration data."""

    collectors = (WeightAbs(),)


class L2(OneStatistic[Params]):
    """Σ W²; needs no calibration data."""

    collectors = (WeightSquare(),)


class Taylor2nd(Scorer[Taylor2ndParams]):
    """Σ |W·g| + Σ ½ W²·H, H the mean of squared batch gradients (LeCun et al. 1990; LLM-Pruner, eq. 4)."""

    def __init__(self, params: Taylor2ndParams):
        super().__init__(params)
        self.collectors = (TaylorAbs(), TaylorCurvature(params.batch))

    def __call__(self, job: ScoreJob) -> Scores:
        first, second = (job.statistics[collector] for collector in self.collectors)
        both = [{axis: a[axis] + b[axis] for axis in a} for a, b in zip(first, second, strict=True)]
        return Scores.of(job.layout, both)


class Random(Scorer[Params]):
    """Noise, the same for the same seed: the control that every other scorer must beat."""

    def __call__(self, job: ScoreJob) -> Scores:
        generator = np.random.default_rng(job.seed)
        # times the cost, so that importance / cost is the noise itself and no axis is favoured for being cheap
        noise = [
            {axis: generator.random(block.units) * block.unit_cost for axis, block in layer.blocks.items()}
            for layer in job.layout.layers
        ]
        return Scores.of(job.layout, noise)
