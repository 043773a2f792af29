"""Plans with the same sizes in every kept layer, so that the stock class of the family loads the model."""

from __future__ import annotations

import numpy as np

from hgsp_core.allocate.budget import Queue, Ranked, block_starts
from hgsp_core.allocate.heads import Path
from hgsp_core.artifacts import Scores
from hgsp_core.model.layout import Layout


def least_lost(layout: Layout, queue: Queue, scores: Scores, budget: int, multiple: int, whole: bool) -> np.ndarray:
    """Units removed [blocks]: of all such plans that use the budget, the one whose removed units have the lowest mean score.

    It tries every number of groups and, if `whole` layers may be removed, every number of layers; channels of the kept
    layers make up the rest. The removed layers are those with the least score in units that the plan would otherwise keep.
    Inside a block the lowest-scored units are removed. The score of a plan is Σ score · cost, as in the knapsack.
    """
    starts = block_starts(layout, scores)
    score = scores.score - min(scores.score.min(), 0)
    lost = [  # by block: [units + 1], by the number of removed units; a block without scores loses none
        np.append(0, np.cumsum(score[starts[i] + _ranked(state)])) * queue.unit_cost[i]
        if starts[i] < starts[i + 1]
        else np.zeros(queue.units[i] + 1)
        for i, state in enumerate(queue.states)
    ]
    layers = np.arange(queue.layer.max() + 1)
    held = np.bincount(queue.layer, weights=queue.floor) > 0
    removable = layers[~held] if whole else layers[:0]
    most = min((queue.units - np.maximum(queue.floor, 1))[queue.attention].tolist(), default=0)
    slab = multiple * int(queue.unit_cost[~queue.attention].sum())

    def taken(gone: np.ndarray) -> np.ndarray:
        return np.array([values[n] for values, n in zip(lost, gone.tolist(), strict=True)])

    best: tuple[float, ...] = (np.inf,)
    found = np.zeros_like(queue.units)
    for count in range(len(removable) + (len(removable) < len(layers))):  # one layer is kept
        for groups in range(most + 1):
            gone = cut_alike(queue, removable[:count], groups, budget, multiple)
            if gone is None:
                break
            if count:
                stays = np.bincount(queue.layer, weights=taken(queue.units) - taken(_as_all(queue, gone)))
                chosen = removable[np.argsort(stays[removable], kind="stable")[:count]]
                gone = cut_alike(queue, chosen, groups, budget, multiple)
                if gone is None:
                    break
            spent = int(queue.spent(gone).sum())
            rank = ((budget - spent) // slab, taken(gone).sum() / max(spent, 1), count, groups)
            if rank < best:
                best, found = rank, gone
    return found


def _ranked(state: Ranked | Path) -> np.ndarray:
    """The order in which the units of a block are removed. [units]."""
    assert isinstance(state, Ranked)  # recipes do not allow single query heads here
    return state.order


def cut_alike(queue: Queue, whole: np.ndarray, groups: int, budget: int, multiple: int) -> np.ndarray | None:
    """Units removed [blocks]: these layers entirely, `groups` of attention in each of the others, and channels for the rest.

    None: the budget does not allow the layers and groups.
    """
    leaves = np.isin(queue.layer, whole)
    gone = np.where(leaves, queue.units, np.where(queue.attention, groups, 0))
    rest = budget - int(queue.spent(gone).sum())
    if rest < 0:
        return None
    open_to = ~queue.attention & ~leaves & np.isin(queue.axis, queue.axis[queue.block])
    whole_cost = np.where(open_to, queue.units * queue.unit_cost, 0)
    axes = sorted(set(queue.axis[open_to].tolist()), key=lambda axis: -queue.unit_cost[queue.axis == axis].max())
    for axis in axes:  # finer units make up for what the coarser ones leave of the budget
        own = open_to & (queue.axis == axis)
        units = rest * queue.units // max(int(whole_cost.sum()), 1)
        kept = np.maximum(queue.units - units, max(int(np.maximum(queue.floor, queue.least)[own].max(initial=0)), 1))
        step = 1 if (queue.least[own] > 1).any() else multiple
        kept = np.minimum(-(-kept // step) * step, queue.units)
        gone = np.where(own, queue.units - kept, gone)
        rest -= int(((queue.units - kept) * queue.unit_cost)[own].sum())
        whole_cost[own] = 0
    return gone


def _as_all(queue: Queue, gone: np.ndarray) -> np.ndarray:
    """[blocks]: `gone`, with the numbers of the kept layers in every layer."""
    stays = np.isin(queue.layer, queue.layer[gone < queue.units])
    of_axis = np.zeros(queue.axis.max() + 1, gone.dtype)
    of_axis[queue.axis[stays]] = gone[stays]
    return np.where(np.isin(queue.axis, queue.axis[stays]), of_axis[queue.axis], gone)
