"""Allocations by rate: from the rate of each layer to numbers of groups and channels."""

from __future__ import annotations

import numpy as np

from hgsp_core.allocate.budget import Capacity, Queue, fill
from hgsp_core.allocate.limits import mixes_tokens
from hgsp_core.artifacts import Scores
from hgsp_core.model.layout import Layout


def scaled_rates(weight: np.ndarray, cost: np.ndarray, budget: int, low: float, high: float) -> np.ndarray:
    """[layers]: clip(s · weight, low, high) with the s for which Σ rate · cost is the budget.

    The sum grows with s, so s is found by bisection; if even `high` everywhere is below the budget, that is returned.
    """
    if not weight.any():
        return np.full(len(weight), low)
    below, above = 0.0, 1 / weight[weight > 0].min()  # from here on all are at `high`
    for _ in range(200):
        middle = (below + above) / 2
        if (np.clip(middle * weight, low, high) * cost).sum() < budget:
            below = middle
        else:
            above = middle
    return np.clip(above * weight, low, high)


def rates_of_blocks(layout: Layout, rates: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units to remove from attention [blocks] (0 for MLPs), and the rate of each block [blocks].

    rates [layers], floor [blocks]. The MLP's rate compensates for the rounding of the groups.
    """
    blocks = layout.blocks()
    layer = np.array([block.layer for block in blocks])
    units = np.array([block.units for block in blocks])
    unit_cost = np.array([block.unit_cost for block in blocks])
    attention = np.array([mixes_tokens(block) for block in blocks])
    wanted = rates * np.array([layer.cost for layer in layout.layers])  # [layers]

    groups = np.ceil(rates[layer] * units - 0.5).astype(np.int64)
    groups = np.where(attention, np.minimum(groups, units - floor), 0)
    while (over := (np.bincount(layer, weights=groups * unit_cost) > wanted)[layer] & (groups > 0)).any():
        groups = groups - over
    rest = wanted - np.bincount(layer, weights=groups * unit_cost)
    channels = np.bincount(layer, weights=np.where(attention, 0, units * unit_cost))
    return groups, np.where(attention, rates[layer], (rest / channels)[layer])


def queue_by_rate(layout: Layout, scores: Scores, rates: np.ndarray, floor: np.ndarray, multiple: int) -> Queue:
    """Units ordered so that every block has reached the same share of its rate at any time: (rank + 1) / (units · rate).

    rates [blocks], above 0 where the floor allows removal.
    """
    block_of = scores.blocks(layout)  # [units]
    by_block = np.lexsort((scores.index, scores.importance, scores.score, block_of))
    units = np.bincount(block_of, minlength=len(rates))
    share = np.empty(len(scores))
    share[by_block] = np.arange(1, len(scores) + 1) - (np.cumsum(units) - units)[block_of[by_block]]
    share /= (units * np.where(rates > 0, rates, 1))[block_of]
    return Queue.of(layout, scores.with_score(share), floor, multiple)


def fill_channels(queue: Queue, gone: np.ndarray, capacities: list[Capacity]) -> np.ndarray:
    """Continue from `gone` [blocks] with channels, and with groups only if no further bundle of channels fits."""
    attention = int(queue.spent(gone)[queue.attention].sum())
    mlp = int(queue.spent(queue.units)[~queue.attention].sum())
    gone = fill(queue, gone, [*capacities, Capacity.kinds(queue, attention, mlp)])
    return fill(queue, gone, capacities)


def fill_shares(queue: Queue, share: float, budget: int, capacities: list[Capacity]) -> np.ndarray:
    """Units removed [blocks]: groups for attention's share of the budget, then channels for the rest.

    With a share of 1 no channel is removed.
    """
    attention = int(share * budget)
    gone = fill(queue, np.zeros_like(queue.units), [*capacities, Capacity.kinds(queue, attention, 0)])
    mlp = budget - int(queue.spent(gone).sum()) if share < 1 else 0
    return fill(queue, gone, [*capacities, Capacity.kinds(queue, attention, mlp)])
