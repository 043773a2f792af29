"""The scorers: importance of units, from the engine's sums over each unit's weights W, gradients g and inputs X."""

from dataclasses import replace

import numpy as np

from hgsp_core.artifacts import Scores
from hgsp_core.engine.collectors import OutputError, TaylorAbs, TaylorCurvature, WandaAbs, WeightAbs, WeightSquare
from hgsp_core.engine.curvature import RemovalCurvature
from hgsp_core.plugin import registry
from hgsp_core.plugin.method import P, Params
from hgsp_core.score.contract import ScoreJob, Scorer
from hgsp_core.score.params import CurvatureParams, ObsParams, Taylor2ndParams


class OneStatistic(Scorer[P]):
    """A scorer whose collector already gives the importance of each unit."""

    def __call__(self, job: ScoreJob) -> Scores:
        (collector,) = self.collectors
        return Scores.of(job.layout, job.statistics[collector])


class Taylor(OneStatistic[Params]):
    """Estimates, to first order, how much the loss changes without the unit.

    Formula: `Σ |W·g|` over the unit's weights. g is summed over the calibration set before the absolute value is
        taken.
    Source: Molchanov et al. 2019, eq. 8, per weight. LLM-Pruner's `param_first` without its sum of absolute values
        over the set.
    Cost: one forward and one backward; the gradients of one layer in memory.
    When: the loss itself should judge the units, and gradients fit in memory.
    """

    collectors = (TaylorAbs(),)


class Wanda(OneStatistic[Params]):
    """Weighs each weight by the norm of its input.

    Formula: `Σ |W_ij|·‖X_j‖₂` over all linears of the unit, each with its own input. Norms are exact, over all
        calibration tokens.
    Source: Sun et al. 2023, eq. 1.
    Cost: one forward.
    When: there is no memory for gradients.
    """

    collectors = (WandaAbs(),)


class Output(OneStatistic[Params]):
    """Measures the squared error of the block's output without the unit. Constants do not count.

    Formula: `Σ |W_S (x_S − mean)|²` over the tokens, where x is the writer's input (o_proj, down_proj) and S the
        columns of the unit.
    Source: after FLAP (An et al. 2024), which scores the columns of a group one by one.
    Cost: one forward and the diagonal blocks of one Gram matrix.
    When: there is no memory for gradients, together with `least-squares`.
    """

    collectors = (OutputError(),)


class Obs(OneStatistic[ObsParams]):
    """Measures the squared error of the block's output without the unit, with all kept columns refitted.

    Formula: `tr(W_S [(H⁻¹)_SS]⁻¹ W_Sᵀ)`, where H is the damped Gram matrix of the writer's input.
    Source: Hassibi & Stork 1993 for a set of columns, as SlimGPT (Ling et al. 2024) scores groups.
    Cost: one forward, one Gram matrix and its inverse.
    When: inputs depend on each other.
    """

    def __init__(self, params: ObsParams):
        super().__init__(params)
        self.collectors = (OutputError(params.damping),)


class Curvature(Scorer[CurvatureParams]):
    """Prices units in nats: how much the model's predictions change without them, with the kept columns refitted.

    Formula: `½ tr(ΔW A ΔWᵀ B)`, where A is the mean of `x xᵀ` over the writer's inputs, B the mean of `g gᵀ` over the
        gradients of -log p by its outputs, p of a token drawn from the model, and ΔW the change of the writer that
        removes the unit and refits the others. Units are removed one after another; a unit's price is the slope of the
        lower convex hull of the sum, KL over parameters, times its parameters.
    Source: K-FAC (Martens & Grosse 2015) as the metric of Optimal Brain Surgeon (Hassibi & Stork 1993).
    Cost: one forward and one backward through activations, which computes no gradient of a weight; for each block the
        Gram matrices of the writer's input and of its output's gradient, and an elimination.
    When: the default, with `global`: attention groups, channels, blocks and layers compete in the same unit.
    Notes: Scores are nats per parameter, so the scores of the removed units add up to the predicted KL divergence
        between the original and the pruned model. The prediction is of second order, too low for large changes:
        `iterative_steps: auto` measures the model again for each quarter that is removed.

        An expert's price is `½ tr(C B)`, where C is the mean over all tokens of `y yᵀ` and y the expert's output times the
        weight that the router gives it (0 where the token does not go to it). It does not count that other experts
        take over.

        Scores of other scorers are comparable inside a block, but mostly not between blocks. With `order: wanda` the
        units of each block are removed in the order of `wanda`, and the prices say how many.
    """

    in_nats = True

    def __init__(self, params: CurvatureParams):
        super().__init__(params)
        self._prices = RemovalCurvature(None if params.damping == "auto" else params.damping)
        self._order = None if params.order is None else registry.build(Scorer, params.order)
        self.collectors = (self._prices, *(self._order.collectors if self._order else ()))

    def __call__(self, job: ScoreJob) -> Scores:
        prices = Scores.of(job.layout, job.statistics[self._prices])
        return reordered(prices, self._order(job)) if self._order else prices


def reordered(prices: Scores, order: Scores) -> Scores:
    """The prices of each block reassigned: the unit with the lowest score in `order` gets the lowest price.

    Blocks that `order` has no scores for keep their own.
    """
    wanted = prices.score.copy()
    for layer, axis in dict.fromkeys(zip(order.layer.tolist(), order.axis.tolist(), strict=True)):
        name = order.axes[axis]
        wanted[prices.units_of(layer, name)] = order.score[order.units_of(layer, name)]
    by_price, by_order = (np.lexsort((prices.index, x, prices.axis, prices.layer)) for x in (prices.score, wanted))
    importance = np.empty_like(prices.importance)
    importance[by_order] = prices.importance[by_price]
    heads = tuple({**own, **others} for own, others in zip(prices.heads, order.heads, strict=True))
    return replace(prices, importance=importance, score=importance / prices.cost, heads=heads)


class Magnitude(OneStatistic[Params]):
    """Sums the absolute values of the unit's weights.

    Formula: `Σ |W|`.
    Source: Han et al. 2015.
    Cost: none; needs no calibration data.
    When: a baseline that every other scorer should beat.
    """

    collectors = (WeightAbs(),)


class L2(OneStatistic[Params]):
    """Sums the squares of the unit's weights.

    Formula: `Σ W²`.
    Cost: none; needs no calibration data.
    When: a baseline like `magnitude`, in which large weights count more.
    """

    collectors = (WeightSquare(),)


class Taylor2nd(Scorer[Taylor2ndParams]):
    """Adds a second-order term to `taylor`.

    Formula: `Σ |W·g| + Σ ½ W²·H`, where H is the mean of g² over gradient batches: the diagonal of the empirical
        Fisher matrix.
    Source: LeCun et al. 1990; LLM-Pruner, eq. 4.
    Cost: one forward and one backward.
    When: all first-order scores are close to zero.
    """

    def __init__(self, params: Taylor2ndParams):
        super().__init__(params)
        self.collectors = (TaylorAbs(), TaylorCurvature(params.batch))

    def __call__(self, job: ScoreJob) -> Scores:
        first, second = (job.statistics[collector] for collector in self.collectors)
        both = [{axis: a[axis] + b[axis] for axis in a} for a, b in zip(first, second, strict=True)]
        return Scores.of(job.layout, both)


class Random(Scorer[Params]):
    """Scores units by noise.

    Formula: uniform noise; the same `calibrate.seed` gives the same scores.
    Cost: none.
    When: the control of every comparison.
    """

    def __call__(self, job: ScoreJob) -> Scores:
        generator = np.random.default_rng(job.seed)
        # times the cost, so that importance / cost is the noise itself and no axis is favoured for being cheap
        noise = [
            {axis: generator.random(block.units) * block.unit_cost for axis, block in layer.blocks.items()}
            for layer in job.layout.layers
        ]
        return Scores.of(job.layout, noise)
