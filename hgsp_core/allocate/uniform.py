"""Uniform pruning: one rate for all layers of a range."""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from hgsp_core.allocate.alike import cut_alike
from hgsp_core.allocate.budget import Capacity, Queue, RatioParams, plan_within
from hgsp_core.allocate.contract import AllocateJob, Allocator
from hgsp_core.allocate.limits import LayerRange, ShareLimits, SizeLimits, floors, in_force, in_range, mixes_tokens
from hgsp_core.allocate.rates import fill_channels, fill_shares, queue_by_rate
from hgsp_core.artifacts import Plan


class UniformLimits(SizeLimits, ShareLimits):
    """How many units each block keeps, and how attention and MLPs share the budget."""


class UniformParams(RatioParams):
    """Parameters of the uniform allocation. LLM-Pruner's ranges for 32 layers are 3..30, for both kinds of block."""

    attention: LayerRange = Field(LayerRange(), description="range of layers whose attention is pruned; default all")
    mlp: LayerRange = Field(LayerRange(), description="range of layers whose MLP is pruned; default all")
    uniform: bool = Field(
        False,
        description="true = the same number of groups and channels in every layer, for a checkpoint of the stock class; "
        "may fall short of the ratio by one channel per layer",
    )
    limits: UniformLimits = Field(UniformLimits(), description="minimum units of each block, and split of the budget")

    @model_validator(mode="after")
    def _alike_everywhere(self) -> UniformParams:
        if self.uniform and (self.attention != LayerRange() or self.mlp != LayerRange()):
            raise ValueError("uniform: true prunes every layer alike: leave out the ranges 'attention' and 'mlp'")
        if self.uniform and self.limits.pruning_distribution is not None:
            raise ValueError("uniform: true shares the budget by size: leave out limits.pruning_distribution")
        return self


class Uniform(Allocator[UniformParams]):
    """Prunes every layer of a range at the same rate, attention and MLP each.

    Formula: `round(rate · groups)` attention groups are removed from each layer; the MLP covers the rest. The rate is
        the budget's share of what may be pruned.
    Source: LLM-Pruner.
    Cost: none.
    When: comparisons; small models whose layers are equally important.
    Notes: With few groups the rounding is coarse: at 20 %, a layer of 2 groups keeps both and one of 4 keeps 3; the
        MLP covers the difference. If the rest of the budget is enough for a group but not for `channel_multiple`
        channels, some layers remove one more group. Each block removes its lowest-scored units and keeps at least
        one.

        Limits: ranges of layers, `min_heads`, `min_channels`, `channel_multiple`, `pruning_distribution`.
    """

    needs_priors = False

    def __call__(self, job: AllocateJob) -> Plan:
        p, layout = self.params, job.layout
        ranges = {
            True: in_range(p.attention, layout, "allocate.with.attention"),
            False: in_range(p.mlp, layout, "allocate.with.mlp"),
        }
        blocks = layout.blocks()
        prunable = np.array([ranges[mixes_tokens(b)][b.layer] for b in blocks])
        floor = np.maximum(floors(p.limits, layout, prunable), 1)
        queue = queue_by_rate(layout, job.scores, np.ones(len(blocks)), floor, p.limits.multiple)
        if p.uniform:
            multiple = p.limits.multiple
            return plan_within(
                layout,
                queue,
                p,
                lambda budget: (alike(queue, budget, multiple), []),
                [*in_force(p), "allocate.with.uniform: true"],
                coarse=multiple * int(queue.unit_cost[~queue.attention].sum()),
            )
        share = p.limits.attention_share
        return plan_within(layout, queue, p, lambda budget: (same_rate(queue, budget, share), []), in_force(p))


def same_rate(queue: Queue, budget: int, share: float | None) -> np.ndarray:
    """Units removed [blocks]: groups of attention, by the common rate or its share, and channels for the rest."""
    if share is not None:
        return fill_shares(queue, share, budget, [Capacity.total(queue, budget)])
    return fill_channels(queue, _groups(queue, budget), [Capacity.total(queue, budget)])


def alike(queue: Queue, budget: int, multiple: int) -> np.ndarray:
    """Units removed [blocks], the same numbers in every layer."""
    groups = min(_groups(queue, budget)[queue.attention].tolist(), default=0)
    gone = cut_alike(queue, queue.layer[:0], groups, budget, multiple)
    assert gone is not None  # the budget allows the groups that `_groups` counts
    return gone


def _groups(queue: Queue, budget: int) -> np.ndarray:
    """Units removed [blocks] from attention: rate · groups, rounded (a half down), fewer if the budget does not allow them."""
    prunable = queue.floor < queue.units
    rate = budget / max(int(queue.spent(queue.units)[prunable].sum()), 1)
    rounded = np.ceil(rate * queue.units - 0.5).astype(np.int64)
    gone = np.where(queue.attention, np.minimum(rounded, queue.units - queue.floor), 0)
    while queue.spent(gone).sum() > budget:
        gone = np.maximum(gone - 1, 0)
    return gone
