"""What a collector sees of a decoder layer: weights and gradients by unit, and one micro-batch passing through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from hgsp_core.model.layout import BlockLayout, LayerLayout, SliceLayout


def head_sums(tensor: Tensor, s: SliceLayout) -> Tensor:
    """Sums [units, heads] fp64 of a weight [out, in] or [experts, ...], or of a vector along the slice's dimension (a bias, or sums).

    Every axis of every architecture is reduced to units and their query heads here and nowhere else.
    """
    if tensor.dim() > 1:
        tensor = tensor.sum([d for d in range(tensor.dim()) if d != s.dim], dtype=torch.float32)  # [units * width]
    return tensor.double().view(-1, s.heads, s.width // s.heads).sum(2)


def unit_tensors(block: BlockLayout) -> Iterator[tuple[str, SliceLayout]]:
    """Full names of the tensors that the block's units are made of; a bias only where it follows their rows."""
    for s in block.slices:
        yield s.weight, s
        if s.has_bias and s.dim == 0:
            yield s.bias, s


@dataclass(frozen=True)
class Layer:
    """One decoder layer with its weights in memory.

    layout     its blocks and their slices
    weights    full tensor name -> weight, in the dtype of the model
    tokens     tokens of the whole calibration set, samples * seq_len;  predicted  those of them that are predicted
    gradients  full name -> dL/dW in fp32, for the tensors of units. L is the mean loss over the predicted tokens of the
               whole set (in `Collector.reduce`) or of one gradient batch (in `Collector.observe_gradient`).
    """

    layout: LayerLayout
    weights: Mapping[str, Tensor]
    tokens: int = 0
    predicted: int = 0
    gradients: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: LayerLayout, module: nn.Module, tokens: int, predicted: int) -> Layer:
        weights = {f"{layout.module}.{name}": p.detach() for name, p in module.named_parameters()}
        return cls(layout, weights, tokens, predicted)

    def per_unit(
        self, measure: Callable[[str], Tensor], biases: bool = True, experts: bool = True
    ) -> dict[str, np.ndarray]:
        """Axis -> [units]: `measure(tensor name)`, summed over each unit's entries.

        It gives an array shaped like the tensor, or one that is already summed along the units' lines: [out] where rows
        are units, [in] where columns are.

        `biases`: also over vectors, which are biases and norms; `experts`: also of blocks whose units are experts.

        `AXIS.heads` -> [units, query heads]: the part of it that lies in single query heads, where units have several.
        """
        found = {}
        for axis, block in (self.layout.blocks if experts else self.layout.written).items():
            tensors = [
                (name, s) for name, s in unit_tensors(block) if biases or (name == s.weight and len(s.shape) > 1)
            ]
            sums = [(s, head_sums(s.part(measure(name)), s)) for name, s in tensors]
            nothing = torch.zeros(())
            found[axis] = sum((part.sum(1) for _, part in sums), nothing).cpu().numpy()
            if block.heads > 1:
                found[f"{axis}.heads"] = sum((part for s, part in sums if s.heads > 1), nothing).cpu().numpy()
        return found


@dataclass(frozen=True)
class Routed:
    """One micro-batch among the experts of a layer.

    module   the experts, which transformers calls with x [tokens, hidden] and
    chosen   the experts of each token, [tokens, experts a token]
    weights  of their outputs in the sum, [tokens, experts a token]
    """

    module: nn.Module
    x: Tensor
    chosen: Tensor
    weights: Tensor

    def tokens(self, experts: int) -> Tensor:
        """[experts] fp64: tokens that go to each."""
        return torch.bincount(self.chosen.flatten(), minlength=experts).double()

    @torch.no_grad()
    def outputs(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Of each expert that has tokens: its number, its tokens [n], and what it adds at them, [n, hidden]."""
        for expert in self.chosen.unique().tolist():
            tokens, place = (self.chosen == expert).nonzero(as_tuple=True)
            alone = torch.full_like(tokens, expert)[:, None]
            yield expert, tokens, self.module.forward(self.x[tokens], alone, self.weights[tokens, place][:, None])


@dataclass(frozen=True)
class Passage:
    """One micro-batch passing through a layer. Activations are in the model's dtype, [batch, seq_len, features].

    before, after  the residual stream that enters and leaves the layer
    added          axis -> what the axis's block adds to the stream, in the order in which the blocks ran
    written        axis -> what its writer gives: the same, unless a norm or a factor stands between
    inputs         linear, by its name relative to the layer -> its input; linears that share an input share the tensor
    routed         axis of experts -> what went to which of them
    """

    before: Tensor
    after: Tensor
    added: Mapping[str, Tensor]
    written: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    routed: Mapping[str, Routed] = field(default_factory=dict)

    def detached(self) -> Passage:
        added = {axis: output.detach() for axis, output in self.added.items()}
        written = {axis: output.detach() for axis, output in self.written.items()}
        return replace(self, before=self.before.detach(), after=self.after.detach(), added=added, written=written)

    @cached_property
    def streams(self) -> list[Tensor]:
        """The residual stream before the first block, between the blocks, and after the last one."""
        streams = [self.before]
        for added in list(self.added.values())[:-1]:
            streams.append(streams[-1] + added)
        return [*streams, self.after]

    @cached_property
    def stream_norms(self) -> list[Tensor]:
        """Of each of `streams`, its length at every token, [batch, seq_len] fp32; made once for all collectors."""
        return [torch.linalg.vector_norm(stream, dim=-1, dtype=torch.float32) for stream in self.streams]

    def residuals(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(axis, stream before, stream after) of each block."""
        yield from zip(self.added, self.streams[:-1], self.streams[1:], strict=True)

    def distinct_inputs(self) -> Iterator[tuple[list[str], Tensor]]:
        """Each input once as [tokens, features], with the names of all linears that read it."""
        readers: dict[int, tuple[list[str], Tensor]] = {}
        for linear, x in self.inputs.items():
            readers.setdefault(x.data_ptr(), ([], x))[0].append(linear)
        for linears, x in readers.values():
            yield linears, x.flatten(0, -2)

    @cached_property
    def input_squares(self) -> list[tuple[list[str], Tensor]]:
        """The linears that read an input, and its Σ x² over the tokens, [features] fp32; made once for all collectors."""
        return [(linears, x.float().square().sum(0)) for linears, x in self.distinct_inputs()]


@dataclass(frozen=True)
class Beginning:
    """One micro-batch on its way to a linear inside a layer, the last thing seen; the fields are those of a Passage."""

    before: Tensor
    added: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]


@contextmanager
def differentiable(layout: LayerLayout, module: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
    """Full name -> parameter, for the tensors of the layer's units; within the context only these ask for gradients."""
    names = [name for block in layout.blocks.values() for name, _ in unit_tensors(block)]
    parameters = {name: module.get_parameter(layout.local(name)) for name in names}
    with frozen(module):
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        yield parameters


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within the context no parameter asks for gradients."""
    before = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in before.items():
            parameter.requires_grad_(required)
