"""What a model is made of, in numbers: every unit, its slices and its exact cost, read from shapes alone.

A layout is computed from the architecture's data, the config and the tensors' shapes. No weight is needed, so the same
object serves a loaded model, a safetensors header and a dry run. Every count of parameters in the product comes from here.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from hgsp_core.model.architecture import Architecture, Axis, Slice
from hgsp_core.model.errors import LayoutError

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class SliceLayout:
    """What a block's units own of one weight: rows or columns of a linear, entries of a norm over all units, experts.

    `shape` [out, in] ([out] of a norm, [experts, ...] of experts) is that of the part from line `start` on: all of the weight,
    unless it is fused.
    `width`: the lines of one unit.
    `layer`: full name of the layer; `local`: the module's name, relative to it; `name`: the same with the number of the part.
    `heads`: query heads of a unit that share these lines evenly (q_proj, o_proj); 1 where they belong to it as a whole.
    """

    layer: str
    local: str
    dim: int
    shape: Shape
    width: int
    has_bias: bool
    heads: int = 1
    start: int = 0
    name: str = ""
    bare: bool = False

    @property
    def is_norm(self) -> bool:
        """Whether it is the vector of a norm."""
        return len(self.shape) == 1 and not self.bare

    @property
    def is_linear(self) -> bool:
        """Whether it is a matrix of a module."""
        return len(self.shape) == 2 and not self.bare

    def part(self, tensor: Tensor) -> Tensor:
        """Its part of a tensor shaped like the weight, or of a vector along its lines."""
        dim = self.dim if tensor.dim() > 1 else 0
        return tensor.narrow(dim, self.start, self.shape[self.dim])

    @property
    def module(self) -> str:
        """Its full name."""
        return f"{self.layer}.{self.local}"

    @property
    def weight(self) -> str:
        """Name of the weight in the checkpoint."""
        return self.module if self.bare else f"{self.module}.weight"

    @property
    def bias(self) -> str:
        """Name of the bias in the checkpoint, whether or not there is one."""
        return f"{self.module}.bias"

    @property
    def unit_cost(self) -> int:
        """Parameters of one unit in this linear; a bias belongs to the units only where they are its rows."""
        return self.width * (prod(self.shape) // self.shape[self.dim] + (self.has_bias and self.dim == 0))

    @property
    def head_cost(self) -> int:
        """Parameters of one query head of one unit in this linear; 0 where it has none."""
        return self.unit_cost // self.heads if self.heads > 1 else 0


@dataclass(frozen=True)
class BlockLayout:
    """The residual branch of one axis in one layer. `gain`: what it returns is multiplied by that before it is added.

    `chosen`: of experts, how many of them a token goes to; 0 where tokens go through all units.
    """

    layer: int
    axis: Axis
    module: str
    units: int
    slices: tuple[SliceLayout, ...]
    fixed: tuple[tuple[str, Shape], ...]
    gain: float = 1.0
    chosen: int = 0

    @property
    def routed(self) -> bool:
        """Whether its units are experts. They have no writer."""
        return bool(self.chosen)

    @property
    def shared(self) -> bool:
        """Whether it has experts that every token goes to, beside those that it is cut along."""
        return self.routed and any(len(shape) > 1 for _, shape in self.fixed)

    @property
    def least(self) -> int:
        """Units that stay if any does."""
        return max(1, self.chosen)

    @cached_property
    def unit_cost(self) -> int:
        """Parameters of one unit."""
        return sum(s.unit_cost for s in self.slices)

    @cached_property
    def fixed_cost(self) -> int:
        """Parameters removed only with the entire block: norms, and biases of linears that write the residual."""
        biases = (s.shape[0] for s in self.slices if s.has_bias and s.dim == 1)
        return sum(prod(shape) for _, shape in self.fixed) + sum(biases)

    @property
    def heads(self) -> int:
        """Query heads of one unit that can be removed singly; 1 = only the entire unit."""
        return max(s.heads for s in self.slices)

    @cached_property
    def head_cost(self) -> int:
        """Parameters of one query head of one unit."""
        return sum(s.head_cost for s in self.slices)

    @property
    def cost(self) -> int:
        """Parameters of the block."""
        return self.units * self.unit_cost + self.fixed_cost

    def kept_cost(self, kept: int, heads: int | None = None) -> int:
        """Parameters kept with `kept` units, each with `heads` query heads (None = all of them).

        Keeping no unit removes the entire block.
        """
        gone = 0 if heads is None else self.heads - heads
        return kept * (self.unit_cost - gone * self.head_cost) + self.fixed_cost if kept else 0

    @property
    def active_cost(self) -> int:
        """Parameters that a token meets: of experts only the chosen ones, and all rows of their router."""
        if not self.routed:
            return self.cost
        router = sum(self.units * s.unit_cost for s in self.slices if s.local == self.axis.router)
        return (
            router
            + min(self.chosen, self.units) * (self.cost - self.fixed_cost - router) // self.units
            + self.fixed_cost
        )

    def shapes(self) -> dict[str, Shape]:
        """Full name -> shape of every tensor that the block owns."""
        shapes = dict(self.fixed)
        for s in self.slices:
            lines = s.start + s.shape[s.dim]  # parts of a fused weight are in order: the last one tells its size
            shapes[s.weight] = (*s.shape[: s.dim], lines, *s.shape[s.dim + 1 :])
            if s.has_bias:
                shapes[s.bias] = shapes[s.weight][:1]
        return shapes

    def tensors(self) -> list[str]:
        """Full names of every tensor that the block owns."""
        return list(self.shapes())

    def resized(self, layer: int, module: str, old_module: str, units: int, heads: int) -> BlockLayout:
        """The same block in layer `layer`, whose name changes from `old_module` to `module`, with other units.

        Each of them has `heads` query heads.
        """

        def renamed(name: str) -> str:
            return module + name.removeprefix(old_module)

        def smaller(s: SliceLayout) -> SliceLayout:
            own = heads if s.heads > 1 else 1
            width = s.width // s.heads * own
            shape = (*s.shape[: s.dim], units * width, *s.shape[s.dim + 1 :])
            return replace(s, layer=module, shape=shape, width=width, heads=own)

        slices = one_after_another([smaller(s) for s in self.slices])
        fixed = tuple((renamed(name), shape) for name, shape in self.fixed)
        return BlockLayout(layer, self.axis, renamed(self.module), units, slices, fixed, self.gain, self.chosen)

    @property
    def writer(self) -> SliceLayout:
        """The slice whose columns are the units: the linear that writes to the residual stream."""
        return next(s for s in self.slices if s.dim == 1)

    @property
    def linears(self) -> list[SliceLayout]:
        """The slices of linears that every token goes through."""
        return [] if self.routed else [s for s in self.slices if s.is_linear]

    def slice_of(self, name: str) -> SliceLayout:
        """The slice of this name."""
        return next(s for s in self.slices if s.name == name)


def one_after_another(slices: Iterable[SliceLayout]) -> tuple[SliceLayout, ...]:
    """The slices with their starts: those of one weight in the order given."""
    ends: dict[str, int] = {}
    placed = []
    for s in slices:
        start = ends.get(s.weight, 0)
        ends[s.weight] = start + s.shape[s.dim]
        placed.append(replace(s, start=start))
    return tuple(placed)


@dataclass(frozen=True)
class LayerLayout:
    """One decoder layer. `blocks`: axis -> its residual branch."""

    index: int
    module: str
    blocks: Mapping[str, BlockLayout]

    def local(self, name: str) -> str:
        """A module's or tensor's full name, relative to the layer."""
        return name.removeprefix(f"{self.module}.")

    @property
    def written(self) -> dict[str, BlockLayout]:
        """The blocks whose units are columns of a writer: all but experts."""
        return {axis: block for axis, block in self.blocks.items() if not block.routed}

    @property
    def cost(self) -> int:
        """Parameters of the layer's blocks."""
        return sum(block.cost for block in self.blocks.values())


@dataclass(frozen=True)
class Layout:
    """All of a model: `outside` are the tensors that no layer owns (embeddings, final norm, head)."""

    architecture: Architecture
    config: Mapping[str, Any]
    layers: tuple[LayerLayout, ...]
    outside: Mapping[str, Shape]

    @property
    def layer_parameters(self) -> int:
        """Parameters of the decoder layers: the denominator of a ratio `of: layers`."""
        return sum(layer.cost for layer in self.layers)

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once: the denominator of a ratio `of: total`."""
        return self.layer_parameters + sum(prod(shape) for shape in self.outside.values())

    @property
    def active_parameters(self) -> int:
        """Parameters that a token meets: all but those of experts that it does not go to."""
        return self.parameters - self.layer_parameters + sum(block.active_cost for block in self.blocks())

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding: ids of tokens are below this."""
        return self.outside[f"{self.architecture.embed}.weight"][0]

    @property
    def head(self) -> str | None:
        """Full name of the head's weight; None where it is the embedding's."""
        name = f"{self.architecture.head}.weight"
        return name if name in self.outside else None

    def blocks(self) -> list[BlockLayout]:
        """Every block in order of layer and of axis."""
        return [block for layer in self.layers for block in layer.blocks.values()]

    def shapes(self) -> dict[str, Shape]:
        """Full name -> shape of every tensor that a checkpoint of this model must hold."""
        shapes = dict(self.outside)
        for block in self.blocks():
            shapes |= block.shapes()
        return shapes

    def tensors(self) -> list[str]:
        """Full names of every tensor that a checkpoint of this model must hold."""
        return list(self.shapes())


def read_layout(architecture: Architecture, config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Layout:
    """Account for every tensor of a checkpoint; a pruned one's layers may differ in size and lack blocks.

    Args:
        architecture: the family's data.
        config: the model's `config.json`.
        shapes: full tensor name -> shape, as stored.

    Raises:
        LayoutError: a tensor is missing, is left over, or does not divide into units. Such a model is refused whole.
    """
    left = {name: tuple(shape) for name, shape in shapes.items()}
    config = {**{new: config[old] for old, new in architecture.renamed.items() if old in config}, **config}

    def take(name: str) -> Shape:
        if name not in left:
            raise LayoutError.missing(name, architecture.model_type)
        return left.pop(name)

    indices = range(count_of(config, "num_hidden_layers"))
    layers = tuple(_read_layer(architecture, config, index, left, take) for index in indices)
    tied = bool(config.get("tie_word_embeddings", False))
    if tied:
        left.pop(f"{architecture.head}.weight", None)
    outside: dict[str, Shape] = {}
    for module in (architecture.embed, architecture.norm, *(() if tied else (architecture.head,))):
        outside |= _owned(module, left, take)
    embed = f"{architecture.embed}.weight"
    rows = _matrix(embed, outside[embed])[0]
    if config.get("vocab_size") is not None and rows != count_of(config, "vocab_size"):
        raise LayoutError.other_rows(embed, rows, config["vocab_size"], "vocab_size")
    if left:
        raise LayoutError.unaccounted(sorted(left), architecture.model_type)
    return Layout(architecture, dict(config), layers, outside)


def _owned(module: str, left: Mapping[str, Shape], take: Callable[[str], Shape]) -> dict[str, Shape]:
    """The weight of a module, and its bias where there is one."""
    bias = f"{module}.bias"
    return {f"{module}.weight": take(f"{module}.weight"), **({bias: take(bias)} if bias in left else {})}


def _read_layer(
    architecture: Architecture,
    config: Mapping[str, Any],
    index: int,
    left: dict[str, Shape],
    take: Callable[[str], Shape],
) -> LayerLayout:
    prefix = f"{architecture.layers}.{index}"
    own = config.get("per_layer_config", {}).get(str(index), {})  # of a pruned checkpoint: where this layer differs
    config = {**config, **own}
    blocks = {}
    for axis in _axes_of(architecture, prefix, own.get("skip", ()), left):
        units = count_of(config, axis.units) if config.get(axis.units) is not None else _default_units(axis, config)
        modules = dict.fromkeys(s.module for s in axis.slices)
        slices = [s for m in (*modules, *axis.norms) for s in _slices_of(axis, m, prefix, units, config, left, take)]
        fixed = tuple(item for module in axis.fixed for item in _owned(f"{prefix}.{module}", left, take).items())
        gain = float(config[axis.gain]) if config.get(axis.gain) is not None else 1.0
        chosen = count_of(config, axis.chosen) if axis.router else 0
        block = BlockLayout(
            index, axis, f"{prefix}.{axis.block}", units, one_after_another(slices), fixed, gain, chosen
        )
        if chosen > units:
            raise LayoutError.too_few_experts(index, units, axis.chosen, chosen)
        blocks[axis.name] = _with_heads(block, _heads(axis, config, units))
    return LayerLayout(index, prefix, blocks)


def _axes_of(architecture: Architecture, prefix: str, skipped: Container[str], left: Container[str]) -> list[Axis]:
    """The axes that a layer has. Of optional ones for the same module at least one must be there."""

    def there(axis: Axis) -> bool:
        first = axis.slices[0]
        return f"{prefix}.{first.module}{'' if first.bare else '.weight'}" in left

    axes = architecture.axes
    filled = {axis.block for axis in axes if axis.name in skipped or not axis.optional or there(axis)}
    return [a for a in axes if a.name not in skipped and (not a.optional or there(a) or a.block not in filled)]


def _slices_of(
    axis: Axis,
    module: str,
    prefix: str,
    units: int,
    config: Mapping[str, Any],
    left: dict[str, Shape],
    take: Callable[[str], Shape],
) -> list[SliceLayout]:
    """The slices of one linear, which share its lines; or of one norm."""
    labels = [label for label, s in zip(axis.slice_names(), axis.slices, strict=True) if s.module == module] or [module]
    own = [s for s in axis.slices if s.module == module] or [Slice(module, 0)]
    bare, dim = own[0].bare, own[0].dim
    name = f"{prefix}.{module}" if bare else f"{prefix}.{module}.weight"
    shape = take(name) if bare or module in axis.norms else _matrix(name, take(name))
    bias = left.pop(f"{prefix}.{module}.bias", None)
    if axis.router and shape[0] != units:
        raise LayoutError.other_rows(name, shape[0], units, axis.units)
    if bias not in (None, (shape[0],)):
        raise LayoutError.bias(f"{prefix}.{module}.bias", bias, shape)
    counts = [units if s.rows in ("", axis.units) else count_of(config, s.rows) for s in own]
    if units < 1 or shape[dim] % (sum(counts) if len(own) > 1 else units):
        raise LayoutError.indivisible(name, shape, dim, units, axis.units)
    slices = []
    for label, count in zip(labels, counts, strict=True):
        lines = shape[dim] * count // sum(counts)
        if lines % units:
            raise LayoutError.indivisible(name, shape, dim, units, axis.units)
        part = (*shape[:dim], lines, *shape[dim + 1 :])
        slices.append(SliceLayout(prefix, module, dim, part, lines // units, bias is not None, name=label, bare=bare))
    return slices


def _with_heads(block: BlockLayout, heads: int) -> BlockLayout:
    """The block with `heads` query heads a unit: those lines are theirs that are so many times a cached head."""
    if heads == 1 or not block.axis.cache:
        return block
    size = heads * block.slice_of(block.axis.cache[0]).width

    def of_heads(s: SliceLayout) -> bool:
        return s.width == heads if s.bare else s.width % size == 0

    return replace(block, slices=tuple(replace(s, heads=heads) if of_heads(s) else s for s in block.slices))


def _matrix(name: str, shape: Shape) -> Shape:
    if len(shape) != 2:
        raise LayoutError.not_a_matrix(name, shape)
    return shape


def count_of(config: Mapping[str, Any], key: str) -> int:
    """A count of config.json. Raises LayoutError where it is no positive integer."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise LayoutError.bad_count(key, value)
    return value


def _heads(axis: Axis, config: Mapping[str, Any], units: int) -> int:
    """Query heads of one unit: what scales with the units of a block that keeps keys and values; 1 for other blocks."""
    counts = {count_of(config, key) for key in axis.scales if axis.cache and config.get(key) is not None}
    heads = counts.pop() if len(counts) == 1 else units
    return heads // units if units and heads % units == 0 else 1


def _default_units(axis: Axis, config: Mapping[str, Any]) -> int:
    """Old MHA configs carry only `num_attention_heads`; their KV heads are as many."""
    for key in axis.scales:
        if config.get(key) is not None:
            return count_of(config, key)
    raise LayoutError.no_units(axis.units)
