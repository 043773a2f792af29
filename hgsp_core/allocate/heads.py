"""Attention in finer steps than whole groups: one step removes the least important query head of every group of a layer.

All groups of a layer keep the same number of query heads, so it remains grouped-query attention, with fewer query heads per
KV head. Heads and groups are compared here, once per layer. On the path from the whole layer to nothing, each step is the
cheaper one, by importance over parameters, of (a) removing the least important remaining group, with its remaining heads,
and (b) removing one query head of every remaining group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hgsp_core.model.layout import BlockLayout


@dataclass(frozen=True)
class Path:
    """The steps from a whole block to nothing. score, cost [steps]: of what each step removes, scores ascending.

    states [steps]: what is kept after each step, group -> its query heads, most important first.
    """

    score: np.ndarray
    cost: np.ndarray
    states: tuple[dict[int, tuple[int, ...]], ...]

    @property
    def last(self) -> int:
        """`gone` of the empty block."""
        return len(self.states)


def head_path(block: BlockLayout, score: np.ndarray, shares: np.ndarray) -> Path:
    """The path of one block.

    Args:
        score: [units], importance over parameters of each group.
        shares: [units, heads], share of each query head in the importance of its group.
    """
    mass = score * block.unit_cost  # [units]
    heads = mass[:, None] * shares  # [units, heads]
    rest = mass - heads.sum(1)  # removed only with the whole group: its key and value
    order = np.argsort(-heads, axis=1, kind="stable")  # [units, heads], most important first
    heads = np.take_along_axis(heads, order, axis=1)
    stays, h = list(range(block.units)), block.heads
    score_of, cost_of, states = [], [], []
    while stays:
        k = len(stays)
        left = rest[stays] + heads[stays, :h].sum(1)  # [groups that stay]
        group_cost = block.unit_cost - (block.heads - h) * block.head_cost
        by_group, by_head = left.min() / group_cost, np.inf
        if h > 1:
            by_head = heads[stays, h - 1].sum() / (k * block.head_cost)
        if by_head <= by_group:
            h -= 1
        else:
            del stays[int(np.argmin(left))]
        score_of.append(min(by_head, by_group))
        cost_of.append(block.kept_cost(k, h if by_head > by_group else h + 1) - block.kept_cost(len(stays), h))
        states.append({group: tuple(order[group, :h].tolist()) for group in stays})
    return Path(np.maximum.accumulate(score_of), np.array(cost_of), tuple(states))
