"""What a plan keeps of each layer and block, in numbers; every table, picture and file of a run uses these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hgsp_core.artifacts import Plan
from hgsp_core.model.layout import BlockLayout, Layout


@dataclass(frozen=True)
class BlockOutcome:
    """One block: kept units and query heads, their totals, and its parameters before and after."""

    kept: int
    of: int
    heads: int
    heads_of: int
    before: int
    after: int

    @classmethod
    def of_block(cls, block: BlockLayout, plan: Plan) -> BlockOutcome:
        own = plan.block(block)
        heads = len(own.kept) * (own.heads_per_unit or block.heads)
        return cls(len(own.kept), own.of, heads, own.of * block.heads, block.cost, plan.kept_cost(block))

    @property
    def share(self) -> float:
        """Kept share of the parameters, 0..1."""
        return self.after / self.before

    def text(self) -> str:
        """3 / 4; with single query heads removed: 4 / 4 (12 / 16 heads)."""
        units = f"{self.kept:,} / {self.of:,}"
        whole = self.heads * self.of == self.heads_of * self.kept
        return units if whole else f"{units} ({self.heads} / {self.heads_of} heads)"


@dataclass(frozen=True)
class LayerOutcome:
    """One layer: its blocks by axis, and its parameters before and after."""

    index: int
    blocks: Mapping[str, BlockOutcome]
    before: int
    after: int

    @property
    def rate(self) -> float:
        """Removed share of the layer's parameters, 0..1."""
        return 1 - self.after / self.before


def outcomes(layout: Layout, plan: Plan) -> list[LayerOutcome]:
    """Every layer in order."""
    found = []
    for layer in layout.layers:
        blocks = {name: BlockOutcome.of_block(block, plan) for name, block in layer.blocks.items()}
        after = sum(block.after for block in blocks.values())
        found.append(LayerOutcome(layer.index, blocks, layer.cost, after))
    return found


def rates(layout: Layout, plan: Plan) -> np.ndarray:
    """Removed share of each layer's parameters, 0..1. [layers]."""
    return np.array([layer.rate for layer in outcomes(layout, plan)])


def comparison(layout: Layout, plan: Plan) -> dict[str, Any]:
    """The content of pruning_comparison.json: the sizes of every layer before and after."""

    def sizes(layer: LayerOutcome, side: str) -> dict[str, Any]:
        before = side == "before"
        blocks = {
            name: {
                "parameters": block.before if before else block.after,
                "units": block.of if before else block.kept,
                **({"query_heads": block.heads_of if before else block.heads} if block.heads_of > block.of else {}),
            }
            for name, block in layer.blocks.items()
        }
        return {"parameters": layer.before if before else layer.after, **blocks}

    after = plan.parameters_after(layout)
    return {
        "parameters": {"before": layout.parameters, "after": after},
        "layers": [
            {"layer": o.index, "before": sizes(o, "before"), "after": sizes(o, "after"), "removed": o.rate}
            for o in outcomes(layout, plan)
        ],
    }


def analysis(layout: Layout, plan: Plan) -> dict[str, Any]:
    """The content of pruning_analysis.json: how much was removed, of what, and where."""
    layers, removed = outcomes(layout, plan), plan.removed(layout)
    gone = np.array([layer.rate for layer in layers])
    axes = [axis.name for axis in layout.architecture.axes]
    blocks = {axis: [layer.blocks[axis] for layer in layers if axis in layer.blocks] for axis in axes}
    return {
        "removed": {
            "parameters": removed,
            "asked_for": plan.before - plan.target,
            "of_all": removed / layout.parameters,
            "of_layers": removed / layout.layer_parameters,
        },
        "kinds": {
            axis: {
                "units": sum(b.of for b in own),
                "units_removed": sum(b.of - b.kept for b in own),
                "parameters": sum(b.before for b in own),
                "parameters_removed": sum(b.before - b.after for b in own),
                "blocks_removed_whole": [i for i, b in enumerate(own) if not b.kept],
            }
            for axis, own in blocks.items()
        },
        "layers_removed_whole": [layer.index for layer in layers if not layer.after],
        "rate": {
            "mean": float(gone.mean()),
            "smallest": float(gone.min()),
            "largest": float(gone.max()),
            "spread": float(gone.max() - gone.min()),
        },
        "layers": [{"layer": layer.index, "rate": layer.rate} for layer in layers],
        "notes": list(plan.notes),
    }
