"""H-GSP: one global knapsack over units whose scores are gated by the importance of their layer or block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from hgsp_core.allocate.alike import least_lost
from hgsp_core.allocate.budget import Capacity, Queue, RatioParams, fill, plan_within
from hgsp_core.allocate.contract import AllocateJob, Allocator
from hgsp_core.allocate.limits import Limits, SizeLimits, finite_layer_priors, floors, in_force, prunable_layers
from hgsp_core.artifacts import Plan, Priors, Scores
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.model.layout import Layout


class GateParams(RatioParams):
    """Parameters of the gate, the knapsack and the collapse."""

    temperature: float = Field(
        1.0, ge=0, le=10, description="exponent T of the gate, 0..10; 0 = global importance without priors"
    )
    tau: Literal["auto"] | Annotated[float, Field(ge=0)] = Field(
        "auto",
        description="layer prior, 0 or above, below which the layer's prior gates its units; above it, the block's prior does; "
        "auto = 25th percentile of the layers, 0 = always the block, .inf = always the layer",
    )
    epsilon: float = Field(
        0.15, ge=0, le=1, description="removes a layer entirely below this kept share, 0..1; 0 = never"
    )
    query_heads: bool = Field(
        False,
        description="true = also removes single query heads, the same number from every group of a layer; keeps the KV heads",
    )
    limits: Limits = Field(Limits(), description="limits on which layers are pruned, and by how much")


class HGSPParams(GateParams):
    """Parameters of H-GSP."""

    uniform: bool = Field(
        False,
        description="true = the same sizes in every kept layer, for a checkpoint of the stock class; may remove entire layers "
        "unless epsilon is 0",
    )

    @model_validator(mode="after")
    def _alike_everywhere(self) -> HGSPParams:
        if self.uniform and self.query_heads:
            raise ValueError("uniform: true removes entire groups: leave out query_heads")
        others = sorted(self.limits.model_dump(exclude_defaults=True).keys() - SizeLimits.model_fields.keys())
        if self.uniform and others:
            raise ValueError(f"uniform: true prunes every layer alike: leave out limits.{others[0]}")
        return self


class HGSP(Allocator[HGSPParams]):
    """Removes the units with the lowest gated scores over all layers, and layers that would keep little.

    Formula: score · B^T, where T is `temperature` and B = ln(1 + prior). The prior is that of the layer if it is
        below `tau`, else that of the unit's block.
    Source: this project.
    Cost: none; with T above 0, that of the prior. The knapsack itself takes 0.4 s for 459,000 units.
    When: with Taylor scores, T = 0 and `least-squares`: fast, and good where layers differ.
    Notes: T = 0 is plain global importance, without priors. A layer whose kept share is below `epsilon` is removed
        entirely, and the best-scored units of the other layers are kept in exchange.

        Limits: `freeze_first`, `freeze_last`, `freeze_most_important`, `layer_start`, `layer_end`, `layer_min_rate`,
        `layer_max_rate`, `min_heads`, `min_channels`, `channel_multiple`, `pruning_distribution`.

        With `uniform: true` it tries every number of groups and of entire layers to remove (no layers with `epsilon:
        0`), fills the budget with channels, and takes the plan that removes the units with the lowest mean score.
    """

    def __init__(self, params: HGSPParams):
        super().__init__(params)
        self.needs_priors = params.temperature != 0 or params.limits.freeze_most_important > 0

    def __call__(self, job: AllocateJob) -> Plan:
        p = self.params
        queue, layer_min = prepared(p, job)
        if not p.uniform:
            return plan_within(job.layout, queue, p, lambda budget: allocate(queue, p, budget, layer_min), in_force(p))
        scores, multiple = scored(p, job), p.limits.channel_multiple
        return plan_within(
            job.layout,
            queue,
            p,
            lambda budget: (least_lost(queue, scores, budget, multiple, p.epsilon > 0), []),
            [*in_force(p), "allocate.with.uniform: true"],
            coarse=multiple * int(queue.unit_cost[~queue.attention].sum()),
        )


def scored(p: GateParams, job: AllocateJob) -> Scores:
    """The scores as the gate leaves them."""
    if not p.temperature:
        return job.scores
    assert job.priors is not None  # `needs_priors` asked for them
    return gated(job.scores, job.priors, p.temperature, p.tau)


def prepared(p: GateParams, job: AllocateJob) -> tuple[Queue, np.ndarray]:
    """The units in the order in which H-GSP takes them, and what each layer loses at the least [layers]."""
    layout, scores = job.layout, scored(p, job)
    prunable = np.repeat(prunable_layers(p.limits, layout, job.priors), len(scores.axes))  # [blocks]
    floor = floors(p.limits, layout, prunable)
    queue = Queue.of(layout, scores, floor, p.limits.channel_multiple, p.query_heads)
    return queue, _layer_min(p, layout, queue)


def gated(scores: Scores, priors: Priors, temperature: float, tau: float | str) -> Scores:
    """S ← S · Bᵀ, with B = ln(1 + prior).

    The prior is that of the unit's layer l where prior_l < τ (layer-dominant), else that of its block, or of the layer
    where the block's was not measured. Priors under 0 (the loss falls without the layer) count as 0. Scores under 0
    (a normalizer made them) are all shifted up to 0 first, as a large B would otherwise send them first.
    """
    layer = np.maximum(finite_layer_priors(priors), 0)  # [layers]
    unmeasured = np.full_like(layer, np.nan)
    block = np.stack([priors.blocks.get(axis, unmeasured) for axis in scores.axes], axis=1)  # [layers, axes]
    block = np.maximum(np.where(np.isnan(block), layer[:, None], block), 0)
    if tau == "auto":
        tau = np.percentile(layer, 25)
    b = np.log1p(np.where((layer < tau)[:, None], layer[:, None], block))  # [layers, axes]
    s = scores.score - min(scores.score.min(), 0)
    return scores.with_score(s * b[scores.layer, scores.axis] ** temperature)


@dataclass(frozen=True)
class Bounds:
    """What one allocation must hold, in parameters: `capacities`, and the least that each layer loses [layers]."""

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
        """Whether everything in `gone` can be paid, and the layers that it leaves alone can still lose their least."""
        spent = queue.spent(gone)
        owed = np.delete(self.layer_min, queue.layer[gone > 0])
        return spent.sum() + owed.sum() <= self.budget and all((c.room(spent) >= 0).all() for c in self.capacities)


def knapsack(queue: Queue, bounds: Bounds, gone: np.ndarray) -> np.ndarray:
    """Go on from `gone` [blocks]: first what the layers lose at the least, then attention's share, then the rest."""
    if bounds.layer_min.any():
        gone = fill(queue, gone, [*bounds.capacities, Capacity.layers(queue, bounds.layer_min)])
    if bounds.attention_first:
        mlp = int(queue.spent(gone)[~queue.attention].sum())
        gone = fill(queue, gone, [*bounds.capacities, Capacity.kinds(queue, bounds.budget, mlp)])
    return fill(queue, gone, bounds.capacities)


def allocate(queue: Queue, params: GateParams, budget: int, layer_min: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Knapsack and collapse: units gone [blocks], and notes on the layers that could not go whole.

    A layer of which less than ε stays goes whole, thinnest first, and the knapsack runs again over the other layers
    with the budget that is left, so the best-scored units removed there come back. Until no further layer collapses.
    """
    bounds = Bounds.of(params.limits, queue, budget, layer_min)
    whole = np.zeros_like(queue.units)  # units of the layers that go whole [blocks]
    refused: dict[int, str] = {}  # layer -> why it cannot go whole
    while True:
        gone = knapsack(queue, bounds, whole)
        stays = _kept_share(queue, gone)
        new = False
        for layer in np.argsort(stays, kind="stable").tolist():
            blocks = queue.layer == layer
            if stays[layer] >= params.epsilon or layer in refused or whole[blocks].any():
                continue
            wider = np.where(blocks, queue.units, whole)
            if queue.floor[blocks].any():
                refused[layer] = "a limit, or the model's best-scored unit, keeps it"
            elif not bounds.allow(queue, wider):
                refused[layer] = "the budget or a limit does not allow removing the rest"
            else:
                whole, new = wider, True
        if not new:
            break
    return gone, [
        f"Layer {layer} keeps {stays[layer]:.1%}, below epsilon {params.epsilon:g}, but is not removed entirely: {reason}."
        for layer, reason in sorted(refused.items())
        if 0 < stays[layer] < params.epsilon
    ]


def _kept_share(queue: Queue, gone: np.ndarray) -> np.ndarray:
    """[layers]: mean over a layer's blocks of kept / of."""
    return np.bincount(queue.layer, weights=queue.kept_share(gone)) / np.bincount(queue.layer)


def _layer_min(params: GateParams, layout: Layout, queue: Queue) -> np.ndarray:
    """[layers]: parameters that each layer loses at the least, as far as the other limits let it.

    Raises:
        PlanError: together that is more than the ratio.
    """
    cost = np.array([layer.cost for layer in layout.layers])
    removable = np.bincount(queue.layer, weights=queue.removable()).astype(np.int64)
    layer_min = np.minimum((params.limits.layer_min_rate * cost).astype(np.int64), removable)
    if layer_min.sum() > params.budget(layout):
        raise PlanError.ratio_below_layer_min(
            params.ratio, layer_min.sum() / params.denominator(layout), in_force(params)
        )
    return layer_min
