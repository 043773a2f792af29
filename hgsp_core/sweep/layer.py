"""What a collector sees of a decoder layer: weights and gradients by unit, and one micro-batch passing through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hgsp_core.layout import BlockLayout, LayerLayout, SliceLayout


def unit_sums(tensor: Tensor, s: SliceLayout) -> Tensor:
    """One sum per unit, [units] fp64, of a weight [out, in] or of a bias [out] along the slice's dimension.

    Every axis of every architecture is reduced to units here and nowhere else.
    """
    if tensor.dim() == 2:
        tensor = tensor.sum(1 - s.dim, dtype=torch.float32)  # [units * width]
    return tensor.double().view(-1, s.width).sum(1)


def unit_tensors(block: BlockLayout) -> Iterator[tuple[str, SliceLayout]]:
    """Full names of the tensors that the block's units are made of. A bias is among them only where it follows their rows."""
    for s in block.slices:
        yield s.weight, s
        if s.has_bias and s.dim == 0:
            yield s.bias, s


@dataclass(frozen=True)
class Layer:
    """One decoder layer with its weights in memory.

    layout     its blocks and their slices
    weights    full tensor name -> weight, in the dtype of the model
    tokens     tokens of the whole calibration set, samples * seq_len
    gradients  full name -> dL/dW in fp32, for the tensors of units, where L is the mean loss over the predicted tokens of the
               whole set; empty where no backward pass was run
    """

    layout: LayerLayout
    weights: Mapping[str, Tensor]
    tokens: int = 0
    gradients: Mapping[str, Tensor] = field(default_factory=dict)

    def unit_names(self) -> list[str]:
        """Full names of all tensors that units are made of."""
        return [name for block in self.layout.blocks.values() for name, _ in unit_tensors(block)]

    def per_unit(self, measure: Callable[[str], Tensor]) -> dict[str, np.ndarray]:
        """Axis -> [units]: `measure(tensor name)`, an array shaped like the tensor, summed over each unit's entries."""
        return {
            axis: sum(unit_sums(measure(name), s) for name, s in unit_tensors(block)).cpu().numpy()
            for axis, block in self.layout.blocks.items()
        }


@dataclass(frozen=True)
class Passage:
    """One micro-batch passing through a layer. Activations are in the model's dtype, [batch, seq_len, features].

    before, after  the residual stream that enters and leaves the layer
    added          axis -> what the axis's block adds to the stream, in the order in which the blocks ran
    inputs         linear, by its name relative to the layer -> its input; linears that share an input share the tensor
    """

    before: Tensor
    after: Tensor
    added: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]

    def residuals(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(axis, stream before, stream after) of each block."""
        before = self.before
        for axis, added in self.added.items():
            after = before + added
            yield axis, before, after
            before = after

    def distinct_inputs(self) -> Iterator[tuple[list[str], Tensor]]:
        """Each input once as [tokens, features], with the names of all linears that read it."""
        readers: dict[int, tuple[list[str], Tensor]] = {}
        for linear, x in self.inputs.items():
            readers.setdefault(id(x), ([], x))[0].append(linear)
        for linears, x in readers.values():
            yield linears, x.flatten(0, -2)
