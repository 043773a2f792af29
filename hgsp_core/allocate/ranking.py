"""One ranking of the units of all layers: those with the lowest scores are removed, in any layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from pydantic import Field, model_validator

from hgsp_core.allocate.alike import least_lost
from hgsp_core.allocate.budget import Capacity, Queue, RatioParams, fill, plan_within
from hgsp_core.allocate.contract import AllocateJob, Allocator
from hgsp_core.allocate.limits import Limits, SizeLimits, floors, in_force, of_blocks, prunable_layers
from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.model.layout import Layout


class GlobalParams(RatioParams):
    """Parameters of the knapsack."""

    query_heads: bool = Field(
        False,
        description="true = also removes single query heads, the same number from every group of a layer; keeps the KV heads",
    )
    uniform: bool = Field(
        False,
        description="true = the same sizes in every kept layer, for a checkpoint of the stock class; may remove entire layers",
    )
    limits: Limits = Field(Limits(), description="limits on which layers are pruned, and by how much")

    @model_validator(mode="after")
    def _alike_everywhere(self) -> GlobalParams:
        if self.uniform and self.query_heads:
            raise ValueError("uniform: true removes entire groups: leave out query_heads")
        others = sorted(self.limits.model_dump(exclude_defaults=True).keys() - SizeLimits.model_fields.keys())
        if self.uniform and others:
            raise ValueError(f"uniform: true prunes every layer alike: leave out limits.{others[0]}")
        return self


G = TypeVar("G", bound=GlobalParams)


class Ranking(Allocator[G]):
    """An allocator that ranks all units together and removes them in this order, as long as the budget allows."""

    #: whether `uniform` may remove entire layers
    whole_layers = True

    def __init__(self, params: G):
        super().__init__(params)
        self.needs_priors = params.limits.freeze_most_important > 0

    def __call__(self, job: AllocateJob) -> Plan:
        p, layout, scores = self.params, job.layout, self.scores(job)
        prunable = of_blocks(prunable_layers(p.limits, layout, job.priors), layout)
        multiple = p.limits.multiple
        queue = Queue.of(layout, scores, floors(p.limits, layout, prunable), multiple, p.query_heads)
        if p.uniform:

            def alike(budget: int) -> tuple[np.ndarray, list[str]]:
                return least_lost(layout, queue, scores, budget, multiple, self.whole_layers), []

            coarse = multiple * int(queue.unit_cost[~queue.attention].sum())
            return plan_within(layout, queue, p, alike, [*in_force(p), "allocate.with.uniform: true"], coarse)
        layer_min = _layer_min(p, layout, queue)

        def taken(budget: int) -> tuple[np.ndarray, list[str]]:
            return self.take(queue, Bounds.of(p.limits, queue, budget, layer_min))

        return plan_within(layout, queue, p, taken, in_force(p))

    def take(self, queue: Queue, bounds: Bounds) -> tuple[np.ndarray, list[str]]:
        """Units removed [blocks], and notes."""
        return knapsack(queue, bounds, np.zeros_like(queue.units)), []


class Global(Ranking[GlobalParams]):
    """Removes the units with the lowest score per parameter over all layers.

    Formula: the units in ascending order of score / parameters, as long as the budget allows. Blocks and layers may be
        removed entirely.
    Source: global pruning, as in Molchanov et al. 2019.
    Cost: none. The knapsack itself takes 0.4 s for 459,000 units.
    When: the default, with the scores of `curvature`, which are comparable between layers and kinds of units.
    Notes: Limits: `freeze_first`, `freeze_last`, `freeze_most_important`, `layer_start`, `layer_end`, `layer_min_rate`,
        `layer_max_rate`, `min_heads`, `min_channels`, `channel_multiple`, `pruning_distribution`.

        With `uniform: true` it tries every number of groups and of entire layers to remove, fills the budget with
        channels, and takes the plan that removes the units with the lowest mean score.
    """

    compares_layers = True


@dataclass(frozen=True)
class Bounds:
    """Limits of one allocation, in parameters: `capacities`, and the minimum to remove from each layer [layers]."""

    budget: int
    capacities: tuple[Capacity, ...]
    layer_min: np.ndarray
    attention_first: bool

    @classmethod
    def of(cls, limits: Limits, queue: Queue, budget: int, layer_min: np.ndarray) -> Bounds:
        capacities = [Capacity.total(queue, budget)]
        if limits.layer_max_rate < 1:
            cost = np.bincount(queue.layer, weights=queue.spent(queue.units))
            capacities.append(Capacity.layers(queue, np.floor(limits.layer_max_rate * cost).astype(np.int64)))
        share = limits.attention_share
        if share is not None:
            capacities.append(Capacity.kinds(queue, int(share * budget), budget if share < 1 else 0))
        return cls(budget, tuple(capacities), layer_min, share is not None)

    def allow(self, queue: Queue, gone: np.ndarray) -> bool:
        """Whether the limits allow to remove `gone` and the budget then still covers the minimum of the other layers."""
        spent = queue.spent(gone)
        owed = np.delete(self.layer_min, queue.layer[gone > 0])
        return spent.sum() + owed.sum() <= self.budget and all((c.room(spent) >= 0).all() for c in self.capacities)


def knapsack(queue: Queue, bounds: Bounds, gone: np.ndarray) -> np.ndarray:
    """Continue from `gone` [blocks]: first the minimum of each layer, then attention's share, then the rest."""
    if bounds.layer_min.any():
        gone = fill(queue, gone, [*bounds.capacities, Capacity.layers(queue, bounds.layer_min)])
    if bounds.attention_first:
        mlp = int(queue.spent(gone)[~queue.attention].sum())
        gone = fill(queue, gone, [*bounds.capacities, Capacity.kinds(queue, bounds.budget, mlp)])
    return fill(queue, gone, bounds.capacities)


def _layer_min(params: GlobalParams, layout: Layout, queue: Queue) -> np.ndarray:
    """[layers]: minimum number of parameters to remove from each layer, as far as the other limits allow.

    Raises:
        PlanError: the minimums together are more than the ratio.
    """
    cost = np.array([layer.cost for layer in layout.layers])
    removable = np.bincount(queue.layer, weights=queue.removable()).astype(np.int64)
    layer_min = np.minimum((params.limits.layer_min_rate * cost).astype(np.int64), removable)
    if layer_min.sum() > params.budget(layout):
        raise PlanError.ratio_below_layer_min(
            params.ratio, layer_min.sum() / params.denominator(layout), in_force(params)
        )
    return layer_min
