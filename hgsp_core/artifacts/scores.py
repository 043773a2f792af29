"""Importance: of units (scores), of layers and blocks (priors)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hgsp_core.artifacts.calibration import LayerStatistics
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.artifacts.plan import BlockPlan, Plan
from hgsp_core.model.layout import LayerLayout, Layout


@dataclass(frozen=True)
class Scores:
    """One number per unit of the model. Columns, each [units]: layer, axis (index into `axes`), index, importance, cost, score.

    The score starts as importance / cost; normalizers return a copy with other scores. Low scores are removed first.

    Blocks that the scorer has no importance for have no units here: they stay whole.

    `heads`: of each layer, axis -> [units, query heads], the share (0..1) of a unit's importance in each query head; empty if
    the scorer does not give it.
    """

    axes: tuple[str, ...]
    layer: np.ndarray
    axis: np.ndarray
    index: np.ndarray
    importance: np.ndarray
    cost: np.ndarray
    score: np.ndarray
    heads: tuple[Mapping[str, np.ndarray], ...] = ()

    @classmethod
    def of(cls, layout: Layout, importance: Sequence[LayerStatistics]) -> Scores:
        """Scores from importances: `importance[layer][axis]` is an array [units of that block]; without one it stays whole.

        `importance[layer]["AXIS.heads"]`, where there, is [units, query heads]: what of it each query head brings.
        """
        axes = tuple(axis.name for axis in layout.architecture.axes)
        blocks = [b for b in layout.blocks() if b.axis.name in importance[b.layer]]
        if not blocks:
            raise PlanError.no_scores()
        values = [np.asarray(importance[b.layer][b.axis.name], dtype=np.float64) for b in blocks]
        for block, value in zip(blocks, values, strict=True):
            if value.shape != (block.units,):
                raise PlanError.score_shape(block.layer, block.axis.name, block.units, value.shape)
        units = [b.units for b in blocks]
        value, cost = np.concatenate(values), np.repeat([b.unit_cost for b in blocks], units)
        return cls(
            axes,
            layer=np.repeat([b.layer for b in blocks], units),
            axis=np.repeat([axes.index(b.axis.name) for b in blocks], units),
            index=np.concatenate([np.arange(n) for n in units]),
            importance=value,
            cost=cost,
            score=value / cost,
            heads=tuple(_head_shares(layer, importance[layer.index]) for layer in layout.layers),
        )

    def __len__(self) -> int:
        return len(self.layer)

    def with_score(self, score: np.ndarray) -> Scores:
        """The same units with other scores [units]."""
        return replace(self, score=np.asarray(score, dtype=np.float64))

    def last(self, plan: Plan) -> Scores:
        """The scores with the removed units and query heads of the plan below all others, so that they are removed first again.

        Importance becomes zero, not the smallest one: no gate lifts it, and an empty group is removed before any query head.
        """
        gone = np.zeros(len(self), bool)
        for layer, blocks in enumerate(plan.layers):
            for axis, block in blocks.items():
                own = self.units_of(layer, axis)
                gone[own] = ~np.isin(self.index[own], block.kept)
        score, importance = self.score.copy(), self.importance.copy()
        score[gone] = score[~gone].min(initial=0)
        importance[gone] = 0  # first among equal scores
        heads = tuple(
            {axis: shares * _stays(plan.layers[i][axis], shares) for axis, shares in of.items()}
            for i, of in enumerate(self.heads)
        )
        return replace(self, score=score, importance=importance, heads=heads)

    def removed(self, plan: Plan) -> float:
        """Importance of what the plan removes, units and query heads, together."""
        total = 0.0
        for layer, blocks in enumerate(plan.layers):
            for axis, block in blocks.items():
                importance = self.importance[self.units_of(layer, axis)]
                if not len(importance):
                    continue
                total += float(importance.sum() - importance[list(block.kept)].sum())
                if block.heads:
                    shares = self.heads[layer][axis]
                    gone = (shares * ~_stays(block, shares))[list(block.kept)]
                    total += float(importance[list(block.kept)] @ gone.sum(1))
        return total

    def units_of(self, layer: int, axis: str) -> np.ndarray:
        """Positions (rows of the table) of one block's units, in order of index; none where the block has no scores."""
        return np.flatnonzero((self.layer == layer) & (self.axis == self.axes.index(axis)))

    def blocks(self, layout: Layout) -> np.ndarray:
        """[units]: position of each unit's block in `layout.blocks()`."""
        table = np.full((len(layout.layers), len(self.axes)), -1)
        for i, block in enumerate(layout.blocks()):
            table[block.layer, self.axes.index(block.axis.name)] = i
        return table[self.layer, self.axis]

    def scored(self, layout: Layout) -> np.ndarray:
        """[blocks] bool: which blocks of `layout.blocks()` have units here."""
        return np.bincount(self.blocks(layout), minlength=len(layout.blocks())) > 0


def _stays(plan: BlockPlan, shares: np.ndarray) -> np.ndarray:
    """[units, query heads] bool: which of them the plan keeps."""
    stays = np.zeros(shares.shape, bool)
    for unit, heads in zip(plan.kept, plan.heads or [range(shares.shape[1])] * len(plan.kept), strict=True):
        stays[unit, list(heads)] = True
    return stays


def _head_shares(layer: LayerLayout, importance: LayerStatistics) -> dict[str, np.ndarray]:
    """Axis -> [units, query heads]: importance of the query heads over that of their unit (even shares of nothing)."""
    shares = {}
    for axis, block in layer.blocks.items():
        if block.heads > 1 and f"{axis}.heads" in importance:
            heads, units = importance[f"{axis}.heads"], np.asarray(importance[axis])[:, None]
            shares[axis] = np.where(units > 0, heads / np.where(units > 0, units, 1), 1 / block.heads)
    return shares


@dataclass(frozen=True)
class Priors:
    """Importance of layers [layers] and of their blocks, axis -> [layers] (NaN = not measured)."""

    layer: np.ndarray
    blocks: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, layout: Layout, importance: Sequence[LayerStatistics]) -> Priors:
        """Priors from one number per layer under "layer" and one per block under its axis; a missing one is NaN."""

        def column(name: str) -> np.ndarray:
            return np.array([layer.get(name, np.nan) for layer in importance], dtype=np.float64)

        return cls(column("layer"), {axis.name: column(axis.name) for axis in layout.architecture.axes})

    def to_json(self) -> dict[str, Any]:
        """The content of layer_importance.json; null = not measured."""

        def numbers(values: np.ndarray) -> list[float | None]:
            return [None if np.isnan(value) else float(value) for value in values]

        return {"layer": numbers(self.layer), "blocks": {axis: numbers(values) for axis, values in self.blocks.items()}}
