"""The one knapsack: units leave in ascending order of score, as long as the budget of parameters pays for them.

Every allocator orders the units in its own way, and hands the order (a `Queue`) to `fill`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor
from typing import Literal

import numpy as np
from pydantic import Field

from hgsp_core.allocate.limits import mixes_tokens
from hgsp_core.artifacts import Plan, Scores
from hgsp_core.errors import PlanError
from hgsp_core.layout import Layout
from hgsp_core.types import Params


class RatioParams(Params):
    """How much is to go."""

    ratio: float = Field(0.2, gt=0, lt=1, description="share of the parameters to remove, 0..1; never passed")
    of: Literal["total", "layers"] = Field(
        "total", description="what the ratio is a share of: all parameters, or those of the decoder layers"
    )

    def denominator(self, layout: Layout) -> int:
        return layout.parameters if self.of == "total" else layout.layer_parameters

    def budget(self, layout: Layout) -> int:
        """Parameters to remove at the most."""
        return floor(self.ratio * self.denominator(layout))


@dataclass(frozen=True)
class Queue:
    """The units of a model in the order in which they go, in bundles that go together (mostly of one unit).

    A block's units go lowest first, so a state of the model is one number per block: `gone` [blocks], units removed.

    Columns, each [bundles]: `block` (position in `layout.blocks()`), `after` (units of that block that are gone once
    this bundle is), `cost` (parameters; the bundle that empties a block also costs the block's fixed parameters).
    Columns, each [blocks]: `layer`, `attention` (bool), `units`, `unit_cost`, `fixed_cost`, `floor` (units that stay).
    `ranked` [units]: indices of the units, block after block, within a block in the order in which they go.
    """

    block: np.ndarray
    after: np.ndarray
    cost: np.ndarray
    layer: np.ndarray
    attention: np.ndarray
    units: np.ndarray
    unit_cost: np.ndarray
    fixed_cost: np.ndarray
    floor: np.ndarray
    ranked: np.ndarray

    @classmethod
    def of(cls, layout: Layout, scores: Scores, floors: np.ndarray, channel_multiple: int = 1) -> Queue:
        """Order by score, ascending; equal scores by layer, axis, importance (which a gate of zero hides) and index.

        A bundle is `channel_multiple` channels of one block, scored by their mean; a block's first bundle is the
        remainder, so that what is kept is a multiple. The best-scored unit of each axis always stays: a model without
        any attention or any MLP is none.

        Args:
            floors: [blocks], units that must stay.
        Raises:
            PlanError: a score is not finite.
        """
        blocks = layout.blocks()
        units = np.array([block.units for block in blocks])
        unit_cost = np.array([block.unit_cost for block in blocks])
        fixed_cost = np.array([block.fixed_cost for block in blocks])
        attention = np.array([mixes_tokens(block) for block in blocks])
        block_of = scores.layer * len(scores.axes) + scores.axis  # [units], position in layout.blocks()
        if not np.isfinite(scores.score).all():
            worst = int(np.flatnonzero(~np.isfinite(scores.score))[0])
            raise PlanError.score_not_finite(
                int(scores.layer[worst]), scores.axes[scores.axis[worst]], int(scores.index[worst])
            )

        by_block = np.lexsort((scores.index, scores.importance, scores.score, block_of))  # [units]
        block, score = block_of[by_block], scores.score[by_block]
        rank = np.arange(len(block)) - (np.cumsum(units) - units)[block]  # position within its block
        multiple = np.where(attention, 1, channel_multiple)[block]
        remainder = (units[block] - 1) % multiple + 1  # size of the first bundle, 1..multiple
        bundle = (rank + multiple - remainder) // multiple  # [units], number of its bundle within the block

        first = np.flatnonzero(np.diff(block, prepend=-1) | np.diff(bundle, prepend=-1))  # [bundles]
        last = np.append(first[1:], len(block)) - 1
        mean = np.add.reduceat(score, first) / (last - first + 1)
        mean = np.clip(mean, score[first], score[last])  # rounding must not reverse the bundles of a block
        block, after = block[first], rank[last] + 1
        cost = (last - first + 1) * unit_cost[block] + np.where(after == units[block], fixed_cost[block], 0)

        order = np.argsort(mean, kind="stable")  # bundles stand in order of layer, axis, rank: so do equal means
        floor_of = np.array(floors)
        axis_of = block % len(scores.axes)
        for axis in range(len(scores.axes)):
            best = block[order[axis_of[order] == axis][-1]]
            floor_of[best] = max(floor_of[best], 1)
        order = order[(units[block] - after >= floor_of[block])[order]]
        return cls(
            block=block[order],
            after=after[order],
            cost=cost[order],
            layer=np.array([block.layer for block in blocks]),
            attention=attention,
            units=units,
            unit_cost=unit_cost,
            fixed_cost=fixed_cost,
            floor=floor_of,
            ranked=scores.index[by_block],
        )

    def spent(self, gone: np.ndarray) -> np.ndarray:
        """[blocks]: parameters that `gone` removes."""
        return gone * self.unit_cost + np.where(gone == self.units, self.fixed_cost, 0)

    def removable(self) -> np.ndarray:
        """[blocks]: parameters that the floors leave to remove."""
        gone = np.zeros_like(self.units)
        np.maximum.at(gone, self.block, self.after)
        return self.spent(gone)

    def kept(self, layout: Layout, gone: np.ndarray) -> dict[tuple[int, str], np.ndarray]:
        """`(layer, axis) -> units that stay`, as `Plan.of` takes it."""
        ranked = np.split(self.ranked, np.cumsum(self.units)[:-1])  # per block
        return {(block.layer, block.axis.name): ranked[i][gone[i] :] for i, block in enumerate(layout.blocks())}


@dataclass(frozen=True)
class Capacity:
    """Parameters that groups of blocks may lose together. `group` [blocks] int, `limit` [groups]."""

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
        """[groups]: what is left of the limit. spent [blocks]."""
        return self.limit - np.bincount(self.group, weights=spent, minlength=len(self.limit)).astype(np.int64)


def fill(queue: Queue, gone: np.ndarray, capacities: Sequence[Capacity]) -> np.ndarray:
    """Go on from `gone` [blocks]: take each bundle in turn if every capacity still pays for it, else leave it.

    This is the loop over single bundles, done in strides: the longest run that fits is taken at once; then everything
    that no longer fits by itself is dropped, which is for good, as room only shrinks and a block's costs do not.
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
        for c in capacities:
            live = live[queue.cost[live] <= c.room(spent)[c.group[queue.block[live]]]]
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


#: budget -> units gone [blocks], and what there is to say about them
Solve = Callable[[int], tuple[np.ndarray, Sequence[str]]]


def plan_within(
    layout: Layout, queue: Queue, params: RatioParams, solve: Solve, limits: Sequence[str], coarse: int = 0
) -> Plan:
    """The plan that `solve` finds for the ratio asked for.

    Args:
        limits: recipe keys of what may hold the budget back, for messages.
        coarse: parameters that `solve` takes at a time, where that is more than one bundle.
    Raises:
        PlanError: the limits leave less than the ratio asks for, by more than goes at a time.
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
        raise PlanError.ratio_impossible(params.ratio, params.of, largest, limits)
    if short >= queue.unit_cost.min():
        notes = [*notes, shortfall(short, budget, limits)]
    return Plan.of(layout, queue.kept(layout, gone), budget, notes)


def shortfall(short: int, budget: int, limits: Sequence[str]) -> str:
    """The note on a budget that is not used up."""
    because = f"limits: {', '.join(limits)}" if limits else "each unit left costs more"
    return f"{short:,} of {budget:,} parameters to remove ({short / budget:.2%}) stay ({because})."
