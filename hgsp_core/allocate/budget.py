"""The knapsack: units are removed in ascending order of score, as long as the budget of parameters allows.

Each allocator orders the units in its own way and passes the order (a `Queue`) to `fill`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Literal

import numpy as np
from pydantic import Field

from hgsp_core.allocate.heads import Path, head_path
from hgsp_core.allocate.limits import mixes_tokens
from hgsp_core.artifacts import Plan, Scores
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.model.layout import BlockLayout, Layout
from hgsp_core.plugin.method import Params


class RatioParams(Params):
    """How much to remove."""

    ratio: float = Field(0.2, gt=0, lt=1, description="share of the parameters to remove, 0..1; never exceeded")
    of: Literal["total", "layers"] = Field(
        "total", description="base of the ratio: all parameters, or those of the decoder layers"
    )

    def denominator(self, layout: Layout) -> int:
        return layout.parameters if self.of == "total" else layout.layer_parameters

    def budget(self, layout: Layout) -> int:
        """Maximum number of parameters to remove."""
        return floor(self.ratio * self.denominator(layout))


@dataclass(frozen=True)
class Ranked:
    """A block whose units are removed one by one. order [units]: their indices, in the order of removal."""

    order: np.ndarray

    @property
    def last(self) -> int:
        """`gone` of the empty block."""
        return len(self.order)


def _bundles(block: BlockLayout, score: np.ndarray, multiple: int) -> tuple[np.ndarray, ...]:
    """Columns [bundles] of one block: score, units gone after it, cost, units left. score [units], ascending.

    The last bundle is as many experts as a token goes to.
    """
    rank = np.arange(block.units)
    remainder = (block.units - 1) % multiple + 1  # size of the first bundle, 1..multiple
    first = np.flatnonzero(np.diff((rank + multiple - remainder) // multiple, prepend=-1))
    first = first[first <= block.units - block.least]
    last = np.append(first[1:], block.units) - 1
    size = last - first + 1
    mean = np.clip(np.add.reduceat(score, first) / size, score[first], score[last])  # rounding must not reverse them
    left = block.units - last - 1
    return mean, last + 1, size * block.unit_cost + np.where(left == 0, block.fixed_cost, 0), left


def block_starts(layout: Layout, scores: Scores) -> np.ndarray:
    """[blocks + 1]: where each block's units start in the scores; a block without scores has none."""
    return np.append(0, np.cumsum(np.bincount(scores.blocks(layout), minlength=len(layout.blocks()))))


@dataclass(frozen=True)
class Queue:
    """The units of a model in the order of removal, in bundles that are removed together (mostly of one unit).

    A block's units are removed lowest first, so a state of the model is one number per block: `gone` [blocks], units
    removed. If single query heads can be removed, it counts the steps of the block's path instead (`heads.py`).

    Columns, each [bundles]: `score` (ascending), `block` (position in `layout.blocks()`), `after` (`gone` of that block
    after this bundle), `cost` (parameters; the bundle that empties a block also costs the block's fixed parameters).
    Columns, each [blocks]: `layer`, `attention` (bool), `units` (`gone` of an empty block), `unit_cost`, `fixed_cost`,
    `floor` (minimum units to keep), `least` (minimum units of a block that keeps any).
    `axis` [blocks]: position in `scores.axes`.
    `states`, one per block: what is kept, by `gone`. A block without scores has no bundles.
    `unscored`: the axes of such blocks.
    """

    score: np.ndarray
    block: np.ndarray
    after: np.ndarray
    cost: np.ndarray
    layer: np.ndarray
    axis: np.ndarray
    attention: np.ndarray
    units: np.ndarray
    unit_cost: np.ndarray
    fixed_cost: np.ndarray
    floor: np.ndarray
    least: np.ndarray
    states: tuple[Ranked | Path, ...]
    unscored: tuple[str, ...]

    @classmethod
    def of(
        cls, layout: Layout, scores: Scores, floors: np.ndarray, channel_multiple: int = 1, query_heads: bool = False
    ) -> Queue:
        """Order by score, ascending; equal scores by layer, axis, importance (which a gate of zero hides) and index.

        A bundle is `channel_multiple` channels of one block (or one expert), scored by their mean; a block's first bundle is
        the remainder, so that what is kept is a multiple. The best-scored unit of each axis is always kept: a model needs
        attention and an MLP. As many experts are kept as a token goes to where others are shared, which have no scores.

        Args:
            floors: [blocks], minimum units to keep.
            query_heads: whether single query heads can be removed.

        Raises:
            PlanError: a score is not finite; the scores have none for query heads.
        """
        if not np.isfinite(scores.score).all():
            worst = int(np.flatnonzero(~np.isfinite(scores.score))[0])
            raise PlanError.score_not_finite(
                int(scores.layer[worst]), scores.axes[scores.axis[worst]], int(scores.index[worst])
            )
        blocks = layout.blocks()
        axis = np.array([scores.axes.index(block.axis.name) for block in blocks])
        attention = np.array([mixes_tokens(block) for block in blocks])
        starts = block_starts(layout, scores)
        floor_of = np.array(floors)
        states: list[Ranked | Path] = []
        parts: list[tuple[np.ndarray, ...]] = []
        for i, block in enumerate(blocks):
            rows = slice(starts[i], starts[i + 1])
            if starts[i] == starts[i + 1]:
                states.append(Ranked(np.arange(block.units)))
                parts.append((np.empty(0), *np.empty((3, 0), np.int64)))
                floor_of[i] = block.units
            elif query_heads and block.heads > 1:
                shares = scores.heads[block.layer].get(block.axis.name) if scores.heads else None
                if shares is None:
                    raise PlanError.no_head_scores(block.layer, block.axis.name)
                path = head_path(block, scores.score[rows], shares)
                states.append(path)
                left = np.array([len(state) for state in path.states])
                parts.append((path.score, np.arange(1, len(left) + 1), path.cost, left))
            else:
                order = np.lexsort((scores.index[rows], scores.importance[rows], scores.score[rows]))
                states.append(Ranked(scores.index[rows][order]))
                single = attention[i] or block.routed
                floor_of[i] = max(floor_of[i], block.least if block.shared else 0)
                parts.append(_bundles(block, scores.score[rows][order], 1 if single else channel_multiple))

        block_of = np.repeat(np.arange(len(blocks)), [len(score) for score, *_ in parts])
        score, after, cost, left = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(score, kind="stable")  # bundles stand in order of layer, axis, rank: so do equal scores
        for own in np.unique(axis[block_of]):
            best = block_of[order[axis[block_of[order]] == own][-1]]
            floor_of[best] = max(floor_of[best], 1)
        order = order[(left >= floor_of[block_of])[order]]
        return cls(
            score=score[order],
            block=block_of[order],
            after=after[order],
            cost=cost[order],
            layer=np.array([block.layer for block in blocks]),
            axis=axis,
            attention=attention,
            units=np.array([state.last for state in states]),
            unit_cost=np.array([block.unit_cost for block in blocks]),
            fixed_cost=np.array([block.fixed_cost for block in blocks]),
            floor=floor_of,
            least=np.array([block.least for block in blocks]),
            states=tuple(states),
            unscored=tuple(scores.axes[i] for i in np.unique(axis[~scores.scored(layout)])),
        )

    def spent(self, gone: np.ndarray) -> np.ndarray:
        """[blocks]: parameters that `gone` removes."""
        spent = gone * self.unit_cost + np.where(gone == self.units, self.fixed_cost, 0)
        for i, state in enumerate(self.states):
            if isinstance(state, Path):
                spent[i] = state.cost[: gone[i]].sum()
        return spent

    def kept_share(self, gone: np.ndarray) -> np.ndarray:
        """[blocks]: kept share of the parameters of each block's units."""
        whole = self.spent(self.units) - self.fixed_cost
        return 1 - (self.spent(gone) - np.where(gone == self.units, self.fixed_cost, 0)) / whole

    def removable(self) -> np.ndarray:
        """[blocks]: parameters that the floors allow to remove."""
        gone = np.zeros_like(self.units)
        np.maximum.at(gone, self.block, self.after)
        return self.spent(gone)

    def plan(self, layout: Layout, gone: np.ndarray, budget: int, notes: Sequence[str]) -> Plan:
        """The plan that removes `gone` [blocks]."""
        kept: dict[tuple[int, str], Iterable[int]] = {}
        heads: dict[tuple[int, str], Mapping[int, Sequence[int]]] = {}
        for block, state, n in zip(layout.blocks(), self.states, gone.tolist(), strict=True):
            key = block.layer, block.axis.name
            if isinstance(state, Ranked):
                kept[key] = state.order[n:]
            else:
                whole = {unit: tuple(range(block.heads)) for unit in range(block.units)}
                heads[key] = state.states[n - 1] if n else whole
                kept[key] = heads[key]
        return Plan.of(layout, kept, budget, notes, heads)


@dataclass(frozen=True)
class Capacity:
    """Limits on the parameters removed from groups of blocks. `group` [blocks] int, `limit` [groups]."""

    group: np.ndarray
    limit: np.ndarray

    @classmethod
    def total(cls, queue: Queue, budget: int) -> Capacity:
        return cls(np.zeros(len(queue.units), dtype=np.int16), np.array([budget]))

    @classmethod
    def layers(cls, queue: Queue, limit: np.ndarray) -> Capacity:
        return cls(queue.layer.astype(np.int16), limit)

    @classmethod
    def kinds(cls, queue: Queue, attention: int, mlp: int) -> Capacity:
        return cls(queue.attention.astype(np.int16), np.array([mlp, attention]))

    def room(self, spent: np.ndarray) -> np.ndarray:
        """[groups]: the rest of the limit. spent [blocks]."""
        return self.limit - np.bincount(self.group, weights=spent, minlength=len(self.limit)).astype(np.int64)


def fill(queue: Queue, gone: np.ndarray, capacities: Sequence[Capacity]) -> np.ndarray:
    """Continue from `gone` [blocks]: remove each bundle in turn if every capacity allows it, else skip it.

    The result is that of a loop over single bundles, but the longest run that fits is removed at once. Then every bundle
    that no longer fits by itself is dropped, with the later ones of its block: capacities only shrink.
    """
    gone = gone.copy()
    live = np.flatnonzero(queue.after > gone[queue.block])
    while live.size:
        block, cost = queue.block[live], queue.cost[live]
        spent = queue.spent(gone)
        fits = np.ones(len(live), dtype=bool)
        for c in capacities:
            group = c.group[block]
            fits &= _running_sum(group, cost) <= c.room(spent)[group]
        run = len(live) if fits.all() else int(np.argmin(fits))
        gone[block[:run]] = queue.after[live[:run]]  # of equal blocks the last write stays, which is the largest
        live = live[run:]
        spent = queue.spent(gone)
        block, after = queue.block[live], queue.after[live]
        fits = np.ones(len(live), dtype=bool)
        for c in capacities:
            fits &= queue.cost[live] <= c.room(spent)[c.group[block]]
        first_dropped = np.full(len(queue.units), np.iinfo(np.int64).max)
        np.minimum.at(first_dropped, block[~fits], after[~fits])
        live = live[after < first_dropped[block]]
    return gone


def _running_sum(group: np.ndarray, value: np.ndarray) -> np.ndarray:
    """[n]: sum of the values of the same group up to here. group [n] int16 (a radix sort), value [n]."""
    order = np.argsort(group, kind="stable")
    sums = np.cumsum(value[order])
    start = np.flatnonzero(np.diff(group[order], prepend=-1))
    before = (sums - value[order])[start]
    sums -= np.repeat(before, np.diff(start, append=len(sums)))
    result = np.empty_like(sums)
    result[order] = sums
    return result


#: budget -> units removed [blocks], and notes
Solve = Callable[[int], tuple[np.ndarray, Sequence[str]]]


def plan_within(
    layout: Layout, queue: Queue, params: RatioParams, solve: Solve, limits: Sequence[str], coarse: int = 0
) -> Plan:
    """The plan that `solve` finds for the requested ratio.

    Args:
        limits: recipe keys that may prevent the ratio, for messages.
        coarse: parameters that `solve` removes at a time, if more than one bundle.

    Raises:
        PlanError: the limits do not allow the ratio, and fall short of it by more than is removed at a time.
    """
    budget = params.budget(layout)
    coarse = max(coarse, queue.cost.max(initial=0))
    gone, notes = solve(budget)
    short = budget - int(queue.spent(gone).sum())
    if short > coarse:
        while short > coarse:  # a lower budget may lower what a share of it lets go: down to one that is used up
            reached = budget - short
            budget, short = reached, reached - int(queue.spent(solve(reached)[0]).sum())
        largest = (budget - short) / params.denominator(layout)
        limits = [*limits, *(f"no scores for {axis}" for axis in queue.unscored)]
        raise PlanError.ratio_impossible(params.ratio, params.of, largest, limits)
    if short >= queue.unit_cost.min():
        notes = [*notes, shortfall(short, budget, limits)]
    return queue.plan(layout, gone, budget, notes)


def shortfall(short: int, budget: int, limits: Sequence[str]) -> str:
    """The note on a budget that is not used up."""
    because = f"limits: {', '.join(limits)}" if limits else "each remaining unit costs more"
    return f"{short:,} of {budget:,} parameters to remove ({short / budget:.2%}) are kept ({because})."
