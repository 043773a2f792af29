"""What is kept of each block, and what that leaves of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from hgsp_core.artifacts.errors import PlanError
from hgsp_core.model.layout import BlockLayout, LayerLayout, Layout


@dataclass(frozen=True)
class BlockPlan:
    """The kept units of one block, ascending, of `of`; none = the block is removed.

    `heads`: for each kept unit its kept query heads, ascending, counted within the unit; the same number in every unit, so
    that the layer still has grouped-query attention. Empty = all of them.
    """

    of: int
    kept: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...] = ()

    @property
    def loses(self) -> bool:
        """Whether anything of the block is removed."""
        return len(self.kept) < self.of or bool(self.heads)

    @property
    def heads_per_unit(self) -> int | None:
        """Query heads that each kept unit keeps; None = all that it has."""
        return len(self.heads[0]) if self.heads else None

    def to_json(self) -> dict[str, Any]:
        """Its entry in plan.json."""
        heads = {"heads": [list(own) for own in self.heads]} if self.heads else {}
        return {"of": self.of, "kept": list(self.kept), **heads}


@dataclass(frozen=True)
class Plan:
    """What is kept. `layers[i][axis]` is the BlockPlan of one block; `notes` says where limits bent the budget."""

    layers: tuple[Mapping[str, BlockPlan], ...]
    before: int
    target: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        layout: Layout,
        kept: Mapping[tuple[int, str], Iterable[int]],
        removed_target: int,
        notes: Sequence[str] = (),
        heads: Mapping[tuple[int, str], Mapping[int, Sequence[int]] | Sequence[Sequence[int]]] = MappingProxyType({}),
    ) -> Plan:
        """A plan from `(layer, axis) -> kept units`. `removed_target` is the budget: the most parameters to remove.

        `heads`: `(layer, axis) -> unit -> query heads that are kept`, of every kept unit, where only some are kept.

        Raises:
            PlanError: units of one block that would keep different numbers of query heads, or none; fewer experts than a token
                goes to.
        """
        layers = []
        for layer in layout.layers:
            blocks = {}
            for name, block in layer.blocks.items():
                units, of_block = sorted(int(i) for i in kept[layer.index, name]), heads.get((layer.index, name))
                stay = tuple(tuple(sorted(int(h) for h in of_block[u])) for u in units) if of_block is not None else ()
                sizes = {len(set(own) & set(range(block.heads))) for own in stay} | {len(own) for own in stay}
                if len(sizes) > 1 or 0 in sizes:
                    raise PlanError.uneven_heads(layer.index, name, block.heads)
                if 0 < len(units) < block.least:
                    raise PlanError.too_few_experts(layer.index, name, len(units), block.least)
                blocks[name] = BlockPlan(block.units, tuple(units), stay if sizes and block.heads not in sizes else ())
            layers.append(blocks)
        return cls(tuple(layers), layout.parameters, layout.parameters - removed_target, tuple(notes))

    @classmethod
    def keep_all(cls, layout: Layout) -> Plan:
        """The plan that removes nothing."""
        return cls.of(layout, {(b.layer, b.axis.name): range(b.units) for b in layout.blocks()}, 0)

    def block(self, block: BlockLayout) -> BlockPlan:
        """What is kept of that block."""
        return self.layers[block.layer][block.axis.name]

    @property
    def sha256(self) -> str:
        """Of what is kept."""
        kept = [[(b.kept, b.heads) if b.heads else b.kept for b in layer.values()] for layer in self.layers]
        return hashlib.sha256(repr(kept).encode()).hexdigest()

    def within(self, other: Plan) -> bool:
        """Whether everything kept here is kept by the other plan."""
        return all(_within(a[n], b[n]) for a, b in zip(self.layers, other.layers, strict=True) for n in a)

    def with_kept(self, layer: int, axis: str, kept: Sequence[int]) -> Plan:
        """The plan with other units kept in one block, as many as before; with removed query heads the units stay the same."""
        block = self.layers[layer][axis]
        if set(kept) == set(block.kept):
            return self
        if block.heads:
            raise PlanError.units_of_heads(layer, axis)
        if len(set(kept)) != len(block.kept) or not set(kept) <= set(range(block.of)):
            raise PlanError.other_count(layer, axis, len(block.kept), kept)
        changed = {**self.layers[layer], axis: BlockPlan(block.of, tuple(sorted(int(i) for i in kept)))}
        return replace(self, layers=(*self.layers[:layer], changed, *self.layers[layer + 1 :]))

    def kept_layers(self) -> list[int]:
        """Indices of the layers that are not removed entirely; the pruned model renumbers them from 0."""
        return [i for i, layer in enumerate(self.layers) if any(block.kept for block in layer.values())]

    def is_uniform(self) -> bool:
        """Same sizes in every kept layer that has the axis: the pruned model fits the stock class."""
        sizes: dict[str, set[tuple[int, int | None]]] = {}
        for layer in self.kept_layers():
            for axis, b in self.layers[layer].items():
                sizes.setdefault(axis, set()).add((len(b.kept), b.heads_per_unit))
        return bool(sizes) and all(len(of) == 1 and all(kept for kept, _ in of) for of in sizes.values())

    def layout_after(self, layout: Layout) -> Layout:
        """The pruned model's own layout: layers renumbered, blocks at their new sizes, removed blocks absent."""
        layers = []
        for new, old in enumerate(self.kept_layers()):
            layer, module = layout.layers[old], f"{layout.architecture.layers}.{new}"
            blocks = {
                name: block.resized(new, module, layer.module, len(own.kept), own.heads_per_unit or block.heads)
                for name, block in layer.blocks.items()
                for own in [self.block(block)]
                if own.kept
            }
            layers.append(LayerLayout(new, module, blocks))
        return replace(layout, layers=tuple(layers))

    def parameters_after(self, layout: Layout) -> int:
        """Parameters of the pruned model."""
        outside = layout.parameters - layout.layer_parameters
        return outside + sum(self.kept_cost(b) for b in layout.blocks())

    def kept_cost(self, block: BlockLayout) -> int:
        """Parameters of a block that are kept."""
        own = self.block(block)
        return block.kept_cost(len(own.kept), own.heads_per_unit)

    def removed(self, layout: Layout) -> int:
        """Parameters that are removed."""
        return self.before - self.parameters_after(layout)

    def to_json(self, layout: Layout, path: str, fingerprint: str) -> dict[str, Any]:
        """The content of plan.json (version 1)."""
        return {
            "version": 1,
            "model": {"path": path, "model_type": layout.architecture.model_type, "fingerprint": fingerprint},
            "parameters": {"before": self.before, "after": self.parameters_after(layout), "target": self.target},
            "layers": [
                {"index": i, **{name: block.to_json() for name, block in layer.items()}}
                for i, layer in enumerate(self.layers)
            ],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], layout: Layout) -> Plan:
        """Read and check a plan against the model it is for.

        Raises:
            PlanError: another number of layers or units, an index out of range, repeated or unsorted.
        """
        if len(data["layers"]) != len(layout.layers):
            raise PlanError.other_model("layers", len(data["layers"]), len(layout.layers))
        kept, heads = {}, {}
        for block in layout.blocks():
            entry = data["layers"][block.layer][block.axis.name]
            if entry["of"] != block.units:
                raise PlanError.other_model(f"layer {block.layer} {block.axis.name} units", entry["of"], block.units)
            units = list(entry["kept"])
            if units != sorted(set(units)) or (units and not 0 <= units[0] <= units[-1] < block.units):
                raise PlanError.bad_units(block.layer, block.axis.name, block.units)
            kept[block.layer, block.axis.name] = units
            if "heads" in entry:
                if len(entry["heads"]) != len(units):
                    raise PlanError.uneven_heads(block.layer, block.axis.name, block.heads)
                heads[block.layer, block.axis.name] = dict(zip(units, entry["heads"], strict=True))
        parameters = data["parameters"]
        return cls.of(layout, kept, parameters["before"] - parameters["target"], data.get("notes", ()), heads)


def _within(a: BlockPlan, b: BlockPlan) -> bool:
    """Whether b keeps everything of a block that a keeps."""
    of_b = dict(zip(b.kept, b.heads, strict=False))
    of_a = dict(zip(a.kept, a.heads or [()] * len(a.kept), strict=True))
    heads = all(a.heads and set(of_a[unit]) <= set(of_b[unit]) for unit in of_a.keys() & of_b.keys())
    return set(a.kept) <= set(b.kept) and heads
