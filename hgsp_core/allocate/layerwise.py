"""Layerwise pruning: a rate for each layer, from its prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from hgsp_core.allocate.budget import Capacity, RatioParams, plan_within
from hgsp_core.allocate.contract import AllocateJob, Allocator
from hgsp_core.allocate.limits import Limits, finite_layer_priors, floors, in_force, of_blocks, prunable_layers
from hgsp_core.allocate.rates import fill_channels, fill_shares, queue_by_rate, rates_of_blocks, scaled_rates
from hgsp_core.artifacts import Plan, Priors
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.model.layout import Layout


class LayerwiseParams(RatioParams):
    """Parameters of the layerwise allocation."""

    strategy: Literal["inverse", "proportional", "uniform"] = Field(
        "inverse",
        description="inverse = lower rates for important layers, proportional = higher rates for them, uniform = equal rates",
    )
    log_transform: bool = Field(True, description="compare logarithms of the priors, shifted to a minimum of 1")
    importance_weight: float = Field(
        1.5,
        gt=0,
        le=10,
        description="exponent, 0..10, of a layer's relative prior; higher values spare only the top layers",
    )
    min_effective_rate: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="rate, 0..1, below which a layer is not pruned and its share moves to the others; "
        "limits.layer_min_rate, if set, lowers it",
    )
    limits: Limits = Field(Limits(), description="limits on which layers are pruned, and by how much")

    @model_validator(mode="after")
    def _reachable(self) -> LayerwiseParams:
        if self.min_effective_rate > self.limits.layer_max_rate:
            raise ValueError(
                f"min_effective_rate ({self.min_effective_rate:g}) must not be above "
                f"limits.layer_max_rate ({self.limits.layer_max_rate:g}): no layer would be pruned"
            )
        return self


class Layerwise(Allocator[LayerwiseParams]):
    """Derives the rate of each layer from its prior: inverse, proportional or uniform.

    Formula: rate ∝ `1 − x` (inverse) or `x` (proportional), where x is the prior, or its logarithm, mapped to 0..1
        and raised to `importance_weight`.
    Source: `llama3_unbalanced_pruning.py` of the research scripts.
    Cost: that of the prior.
    When: there is no repair, and half of the layers are pruned.
    Notes: Attention removes round(rate · groups) groups (a half rounds down), and the layer's MLP the rest of its
        rate. What is still missing comes from the channels of all pruned layers alike. Each block keeps at least one
        unit. With `pruning_distribution`, attention and MLPs each have their own budget and spend it at the rates of
        the layers.

        Limits: the same as for `hgsp`.
    """

    def __init__(self, params: LayerwiseParams):
        super().__init__(params)
        self.needs_priors = params.strategy != "uniform" or params.limits.freeze_most_important > 0

    def __call__(self, job: AllocateJob) -> Plan:
        p, layout = self.params, job.layout
        rates = layer_rates(p, layout, job.priors)
        floor = np.maximum(
            floors(p.limits, layout, of_blocks(rates > 0, layout) & job.scores.scored(layout)), 1
        )  # [blocks]
        share = p.limits.attention_share
        groups, block_rates = rates_of_blocks(layout, rates, floor)
        if share is not None:
            block_rates = of_blocks(rates, layout)
        queue = queue_by_rate(layout, job.scores, block_rates, floor, p.limits.multiple)
        cost = np.array([layer.cost for layer in layout.layers])
        layer_max = Capacity.layers(queue, np.floor(p.limits.layer_max_rate * cost).astype(np.int64))

        def solve(budget: int) -> tuple[np.ndarray, Sequence[str]]:
            capacities = [Capacity.total(queue, budget), layer_max]
            if share is not None:
                return fill_shares(queue, share, budget, capacities), []
            return fill_channels(queue, groups, capacities), []

        limits = [
            *in_force(p),
            f"allocate.with.strategy: {p.strategy}",
            f"allocate.with.min_effective_rate: {p.min_effective_rate:g}",
        ]
        return plan_within(layout, queue, p, solve, limits)


def layer_rates(params: LayerwiseParams, layout: Layout, priors: Priors | None) -> np.ndarray:
    """[layers]: the rate of each layer, a share of its parameters.

    Together the rates use the budget, as far as the limits allow. While a rate is below the least effective one, the lowest
    rate becomes 0 (of equal rates that of the highest prior), and its share moves to the other layers.

    Raises:
        PlanError: the minimum rates of the layers together are more than the ratio.
    """
    p, limits = params, params.limits
    cost = np.array([layer.cost for layer in layout.layers])
    active = prunable_layers(limits, layout, priors)
    weight, prior = np.ones(len(cost)), np.zeros(len(cost))
    if p.strategy != "uniform":
        prior = finite_layer_priors(priors)
        weight = layer_weights(prior, p.strategy, p.log_transform, p.importance_weight)
    effective = min(p.min_effective_rate, limits.layer_min_rate or 1)
    while True:
        rates = np.zeros(len(cost))
        rates[active] = scaled_rates(
            weight[active], cost[active], p.budget(layout), limits.layer_min_rate, limits.layer_max_rate
        )
        if active.sum() <= 1 or rates[active].min() >= effective - 1e-9:
            least = np.floor(limits.layer_min_rate * cost[active]).sum()
            if least > p.budget(layout):
                raise PlanError.ratio_below_layer_min(p.ratio, least / p.denominator(layout), in_force(p))
            return rates
        lowest_first = np.lexsort((-prior, rates))
        active[lowest_first[active[lowest_first]][0]] = False


def layer_weights(prior: np.ndarray, strategy: str, log_transform: bool, importance_weight: float) -> np.ndarray:
    """[layers], 0..1: what the rates are proportional to.

    x = ln(p − min + 1), or p itself; x ← ((x − min) / (max − min)) ^ importance_weight; inverse: 1 − x, proportional: x.
    Equal priors give equal weights.
    """
    x = np.log1p(prior - prior.min()) if log_transform else prior - prior.min()
    if not x.any():
        return np.ones_like(x)
    x = (x / x.max()) ** importance_weight
    return 1 - x if strategy == "inverse" else x
