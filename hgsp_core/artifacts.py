"""The typed results of the stages: what one stage makes and the next one reads.

All are frozen and made of numpy arrays and plain data; each can be saved, loaded and hashed (see `store.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from hgsp_core.errors import PlanError
from hgsp_core.layout import BlockLayout, LayerLayout, Layout


@dataclass(frozen=True)
class Calibration:
    """The one token set that every method of a run sees. tokens [samples, seq_len] int64."""

    dataset: str
    seed: int
    tokens: np.ndarray

    @property
    def sha256(self) -> str:
        """Hash of the token ids, whatever the platform."""
        return hashlib.sha256(np.ascontiguousarray(self.tokens, dtype="<i8").tobytes()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What the report says of it."""
        samples, seq_len = self.tokens.shape
        return {
            "dataset": self.dataset,
            "samples": samples,
            "seq_len": seq_len,
            "seed": self.seed,
            "tokens_sha256": self.sha256,
        }


#: what one collector measured in one layer: a name (an axis, or "layer") -> array
LayerStatistics = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Statistics:
    """Measurements of the sweep: collector key -> one mapping per layer."""

    values: Mapping[str, Sequence[LayerStatistics]]

    def __getitem__(self, collector: Any) -> Sequence[LayerStatistics]:
        """The layers' measurements of a collector (or of its key)."""
        return self.values[getattr(collector, "key", collector)]


@dataclass(frozen=True)
class Scores:
    """One number per unit of the model. Columns, each [units]: layer, axis (index into `axes`), index, importance, cost, score.

    Starts as importance / cost (R4.1); normalizers return a copy with other scores. Low goes first.

    `heads`: of each layer, axis -> [units, query heads], the part (0..1) of a unit's importance that is its query heads';
    empty where the scorer does not tell.
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
        """Scores from importances: `importance[layer][axis]` is an array [units of that block].

        `importance[layer]["AXIS.heads"]`, where there, is [units, query heads]: what of it each query head brings.
        """
        axes = tuple(axis.name for axis in layout.architecture.axes)
        blocks = layout.blocks()
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
        """The scores with what the plan removed, units and query heads, below all others: it goes first again.

        At zero, not at the least of the others: no gate lifts it, and a group that has nothing goes before any query head.
        """
        gone = np.array(
            [
                i not in kept
                for layer in plan.layers
                for b in layer.values()
                for kept in [set(b.kept)]
                for i in range(b.of)
            ]
        )
        score, importance = self.score.copy(), self.importance.copy()
        score[gone] = score[~gone].min(initial=0)
        importance[gone] = 0  # first among equal scores
        heads = tuple(
            {axis: shares * _stays(plan.layers[i][axis], shares) for axis, shares in of.items()}
            for i, of in enumerate(self.heads)
        )
        return replace(self, score=score, importance=importance, heads=heads)

    def units_of(self, layer: int, axis: str) -> np.ndarray:
        """Positions (rows of the table) of one block's units, in order of index."""
        return np.flatnonzero((self.layer == layer) & (self.axis == self.axes.index(axis)))


def _stays(plan: BlockPlan, shares: np.ndarray) -> np.ndarray:
    """[units, query heads] bool, as `shares`: which of them the plan keeps."""
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
    """Importance of whole layers [layers] and of their blocks, axis -> [layers] (NaN = not measured)."""

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


@dataclass(frozen=True)
class BlockPlan:
    """The units that stay in one block, ascending, of `of`; none = the block goes whole.

    `heads`: for each kept unit its query heads that stay, ascending, counted within the unit; as many in every unit, so
    that the layer stays one of grouped-query attention. Empty = all of them.
    """

    of: int
    kept: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...] = ()

    @property
    def loses(self) -> bool:
        """Whether anything of the block goes."""
        return len(self.kept) < self.of or bool(self.heads)

    @property
    def heads_per_unit(self) -> int | None:
        """Query heads that each kept unit keeps; None = all that it has."""
        return len(self.heads[0]) if self.heads else None


@dataclass(frozen=True)
class Plan:
    """What stays. `layers[i][axis]` is the BlockPlan of one block; `notes` says where limits bent the budget."""

    layers: tuple[Mapping[str, BlockPlan], ...]
    before: int
    target: int
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        layout: Layout,
        kept: Mapping[tuple[int, str], Sequence[int]],
        removed_target: int,
        notes: Sequence[str] = (),
        heads: Mapping[tuple[int, str], Sequence[Sequence[int]]] = MappingProxyType({}),
    ) -> Plan:
        """A plan from `(layer, axis) -> kept units`. `removed_target` is the budget: parameters to remove at the most.

        `heads`: `(layer, axis) -> [units, query heads that stay]`, of every unit of the block, where only some stay.

        Raises:
            PlanError: units of one block that would keep different numbers of query heads, or none.
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
        """Whether nothing stays here that the other plan removes."""
        return all(_within(a[n], b[n]) for a, b in zip(self.layers, other.layers, strict=True) for n in a)

    def with_kept(self, layer: int, axis: str, kept: Sequence[int]) -> Plan:
        """The plan with other units kept in one block, as many as before; where query heads go, the units stay the same."""
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
        """Indices of the layers of which something stays; these are renumbered 0.. in the pruned model."""
        return [i for i, layer in enumerate(self.layers) if any(block.kept for block in layer.values())]

    def is_uniform(self) -> bool:
        """Same sizes in every layer that stays: the pruned model fits the stock class."""
        sizes = {tuple((len(b.kept), b.heads_per_unit) for b in self.layers[i].values()) for i in self.kept_layers()}
        return len(sizes) == 1 and all(kept for kept, _ in next(iter(sizes)))

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
        """Parameters of a block that stay."""
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
                {"index": i, **{name: _block_json(b) for name, b in layer.items()}}
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
    """Whether all that a keeps of a block stays in b, too."""
    of_b = dict(zip(b.kept, b.heads, strict=False))
    return set(a.kept) <= set(b.kept) and all(
        a.heads and set(own) <= set(of_b[u])
        for u, own in zip(a.kept, a.heads or [()] * len(a.kept), strict=True)
        if u in of_b
    )


def _block_json(block: BlockPlan) -> dict[str, Any]:
    heads = {"heads": [list(own) for own in block.heads]} if block.heads else {}
    return {"of": block.of, "kept": list(block.kept), **heads}
