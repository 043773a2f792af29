"""Collectors: what the pass over the layers measures. A method lists the ones it needs; one pass measures all of them.

A collector is a small frozen dataclass. It adds up over tokens, then turns the sums into numbers per unit or per layer;
so micro-batches and parallel processes change only the order of additions. A plugin writes its own in the same way:

    @dataclass(frozen=True)
    class MeanOutput(Collector):
        depth = Depth.FORWARD

        def observe(self, layer, passage, sums):
            sums.add("layer", passage.after.float().mean(-1).sum())

        def reduce(self, layer, sums):
            return {"layer": sums.numpy("layer") / layer.tokens}

`W` is a weight [out, in], `X` the input of its linear over all tokens of the set [tokens, in], `g` = dL/dW of the mean
loss over the predicted tokens of the set. Units own their weights, and the biases that follow their rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hgsp_core.artifacts import LayerStatistics
from hgsp_core.engine.layer import Layer, Passage
from hgsp_core.engine.obs import diagonal_blocks, inverse_hessian, removal_errors
from hgsp_core.engine.sums import Sums


class Depth(IntEnum):
    """How deep the pass must go for a collector."""

    WEIGHTS = 0  # no calibration data
    FORWARD = 1  # activations
    BACKWARD = 2  # gradients of the causal-LM loss
    REMOVAL = 3  # losses of the model without a block or layer (RemovalLoss only)
    CURVATURE = 4  # gradients of what blocks add to the stream, for tokens drawn from the model


@dataclass(frozen=True)
class Collector(ABC):
    """One measurement. Raise `version` when the same input gives other numbers, so that old results are not reused."""

    depth: ClassVar[Depth]
    version: ClassVar[int] = 1

    @property
    def key(self) -> str:
        """The collector's name in the store: class, version and parameters."""
        parameters = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))
        return f"{type(self).__module__}.{type(self).__qualname__}/{self.version}({parameters})"

    @property
    def needs_tokens(self) -> bool:
        return self.depth > Depth.WEIGHTS

    @property
    def gradient_batch(self) -> int | None:
        """Samples of one gradient, for a BACKWARD collector that observes the gradient of each batch."""
        return None

    def observe(self, layer: Layer, passage: Passage, sums: Sums) -> None:  # noqa: B027
        """Add one micro-batch's share (FORWARD)."""

    def observe_gradient(self, layer: Layer, sums: Sums) -> None:  # noqa: B027
        """Add one gradient batch's share; `layer.gradients` are of the mean loss over that batch (`gradient_batch`)."""

    def observe_slopes(  # noqa: B027
        self, layer: Layer, passage: Passage, slopes: Mapping[str, Tensor], sums: Sums
    ) -> None:
        """Add one micro-batch's share (CURVATURE).

        slopes: axis -> d(-log p)/d(what its block adds to the stream) [batch, seq_len, hidden] fp32, summed over the
        micro-batch's predicted tokens, p the model's probability of a token that was drawn from its prediction.
        """

    @abstractmethod
    def reduce(self, layer: Layer, sums: Sums) -> LayerStatistics:
        """The layer's result, of the sums over the whole set: name -> array, keyed by axis, by linear, or "layer"."""


@dataclass(frozen=True)
class WeightAbs(Collector):
    """Axis -> Σ |W| of each unit."""

    depth = Depth.WEIGHTS
    version = 2

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        return layer.per_unit(lambda name: layer.weights[name].float().abs())


@dataclass(frozen=True)
class WeightSquare(Collector):
    """Axis -> Σ W² of each unit."""

    depth = Depth.WEIGHTS
    version = 2

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        return layer.per_unit(lambda name: layer.weights[name].float().square())


@dataclass(frozen=True)
class TaylorAbs(Collector):
    """Axis -> Σ |W·g| of each unit (Molchanov et al. 2019, eq. 7 per weight); g is summed before the absolute value."""

    depth = Depth.BACKWARD
    version = 2

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        return layer.per_unit(lambda name: (layer.weights[name] * layer.gradients[name]).abs_())


@dataclass(frozen=True)
class GradientScale(Collector):
    """`mean`, `std`, `norm`, `max` and `min` of |g| over all weights of the layer's units: how large its gradients are.

    Reads existing gradients four times per layer and makes no copy.
    """

    depth = Depth.BACKWARD

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        rows = [g.reshape(-1, g.shape[-1]) for g in layer.gradients.values()]

        def norms(order: float) -> Tensor:
            return torch.cat([torch.linalg.vector_norm(g, order, dim=1).double() for g in rows])

        entries, norm = sum(g.numel() for g in rows), norms(2).square().sum().sqrt()
        mean = norms(1).sum() / entries
        std = (norm.square() / entries - mean.square()).clamp_min(0).sqrt()
        found = {"mean": mean, "std": std, "norm": norm, "max": norms(torch.inf).max(), "min": norms(-torch.inf).min()}
        return {name: value.cpu().numpy() for name, value in found.items()}


@dataclass(frozen=True)
class TaylorCurvature(Collector):
    """Axis -> Σ ½ W²·H of each unit, H the mean over batches of g_b², g_b the gradient of one batch's mean loss.

    batch: samples of one gradient. It affects the result, unlike the micro-batch, which only affects cost.
    """

    batch: int = 4

    depth = Depth.BACKWARD
    version = 2

    @property
    def gradient_batch(self) -> int:
        return self.batch

    def observe_gradient(self, layer: Layer, sums: Sums) -> None:
        for name, gradient in layer.gradients.items():
            sums.add(name, gradient.square())
        sums.add("batches", gradient.new_ones(()))

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        return layer.per_unit(lambda name: layer.weights[name].float().square() * sums[name] / (2 * sums["batches"]))


@dataclass(frozen=True)
class ResidualCosine(Collector):
    """Layer and axis -> 1 - mean over tokens of cos(stream before, after): ShortGPT's Block Influence, eq. 1."""

    depth = Depth.FORWARD

    def observe(self, layer: Layer, passage: Passage, sums: Sums) -> None:
        streams, norms = passage.streams, passage.stream_norms
        for name, first, last in [("layer", 0, -1), *((axis, i, i + 1) for i, axis in enumerate(passage.added))]:
            dots = torch.linalg.vecdot(streams[first].float(), streams[last].float())
            sums.add(name, (dots / (norms[first] * norms[last]).clamp_min_(1e-8)).sum(dtype=torch.float64))

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        return {name: 1 - sums.numpy(name) / layer.tokens for name in sums}


@dataclass(frozen=True)
class OutputNorm(Collector):
    """Layer and axis -> mean over tokens of ‖·‖₂: of the stream that leaves the layer; of what a block adds to it."""

    depth = Depth.FORWARD

    def observe(self, layer: Layer, passage: Passage, sums: Sums) -> None:
        sums.add("layer", passage.stream_norms[-1].sum(dtype=torch.float64))
        for name, output in passage.added.items():
            sums.add(name, torch.linalg.vector_norm(output, dim=-1, dtype=torch.float32).sum(dtype=torch.float64))

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        return {name: sums.numpy(name) / layer.tokens for name in sums}


def add_input_squares(passage: Passage, sums: Sums) -> None:
    """Adds Σ x² of each input under the names of the linears that read it, joined by spaces."""
    for linears, squares in passage.input_squares:
        sums.add(" ".join(linears), squares)


@dataclass(frozen=True)
class InputNorm(Collector):
    """Linear -> ‖X_j‖₂ over all tokens, [in]: the square root of the sum of squares over everything."""

    depth = Depth.FORWARD

    def observe(self, layer: Layer, passage: Passage, sums: Sums) -> None:
        add_input_squares(passage, sums)

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        return {linear: np.sqrt(sums.numpy(name)) for name in sums for linear in name.split()}


@dataclass(frozen=True)
class WandaAbs(Collector):
    """Axis -> Σ |W_ij|·‖X_j‖₂ over each unit's weights; biases have no input and do not count (Wanda, eq. 1)."""

    depth = Depth.FORWARD
    version = 3

    def observe(self, layer: Layer, passage: Passage, sums: Sums) -> None:
        add_input_squares(passage, sums)

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        prefix = layer.layout.module
        norms = {f"{prefix}.{linear}.weight": sums[name].sqrt().float() for name in sums for linear in name.split()}
        rows = {s.weight for block in layer.layout.written.values() for s in block.slices if s.dim == 0}

        def summed(name: str) -> Tensor:  # along a unit's line: an array of products would cost three times as much
            weight = layer.weights[name].abs()
            return weight.float() @ norms[name] if name in rows else weight.sum(0, dtype=torch.float32) * norms[name]

        return layer.per_unit(summed, biases=False, experts=False)


@dataclass(frozen=True)
class InputMoments(Collector):
    """`LINEAR.mean` and `LINEAR.variance` -> moments of X_j over all tokens, [in]."""

    depth = Depth.FORWARD

    def observe(self, layer: Layer, passage: Passage, sums: Sums) -> None:
        for linears, x in passage.distinct_inputs():
            sums.add(" ".join(linears) + " mean", x.sum(0, dtype=torch.float32))
        for linears, squares in passage.input_squares:
            sums.add(" ".join(linears) + " square", squares)

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        found = {}
        for name in sums:
            *linears, moment = name.split()
            if moment == "mean":
                mean = sums.numpy(name) / layer.tokens
                square = sums.numpy(" ".join(linears) + " square") / layer.tokens
                for linear in linears:
                    found[f"{linear}.mean"], found[f"{linear}.variance"] = mean, np.maximum(square - mean**2, 0)
        return found


@dataclass(frozen=True)
class Gram(Collector):
    """Linear -> XᵀX [in, in] in fp32, for the linears named (relative to the layer), or all whose inputs are units.

    in² numbers per linear and about in² operations per token: half as many as a layer's forward. Name only the linears you
    need.
    """

    linears: tuple[str, ...] = ()

    depth = Depth.FORWARD

    def observe(self, layer: Layer, passage: Passage, sums: Sums) -> None:
        wanted = self.linears or [s.local for block in layer.layout.blocks.values() for s in block.slices if s.dim == 1]
        for linear in wanted:
            sums.add_gram(linear, passage.inputs[linear].flatten(0, -2))

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        return {linear: sums.numpy(linear) for linear in sums}


@dataclass(frozen=True)
class OutputError(Collector):
    """Axis -> squared error of what the block adds to the stream, over all tokens, when one unit alone is removed.

    With W_S [out, columns of the unit] of the writer, X its input, μ the mean of X over the tokens and H = XᵀX:

        ridge None   Σ |W_S (x_S − μ_S)|²: kept weights do not change; a constant does not count, as in FLAP
        ridge ρ      tr(W_S [(H + λI)⁻¹_SS]⁻¹ W_Sᵀ), λ = ρ · mean(diag H): kept columns are refitted (Optimal Brain Surgeon)

    `AXIS.heads` -> the errors of single query heads. A ridge needs all of H, at the cost of `Gram`; without one, the blocks
    H_SS of the units are enough and cost almost nothing. H is not kept.
    """

    ridge: float | None = None

    depth = Depth.FORWARD
    version = 2

    def observe(self, layer: Layer, passage: Passage, sums: Sums) -> None:
        for block in layer.layout.written.values():
            linear = block.writer.local
            x = passage.inputs[linear].flatten(0, -2)
            if self.ridge is None:
                sums.add_gram_blocks(linear, x, block.writer.width)
                sums.add(f"{linear} sum", x.sum(0, dtype=torch.float32))
            else:
                sums.add_gram(linear, x)

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        found = {}
        for axis, block in layer.layout.written.items():
            writer = block.writer
            linear = writer.local
            weight, gram = layer.weights[writer.weight].double(), sums[linear].double()
            if self.ridge is None:
                total = sums[f"{linear} sum"].view(block.units, -1)
                gram -= total.unsqueeze(1) * total.unsqueeze(2) / layer.tokens
            else:
                gram = inverse_hessian(gram, self.ridge)
            found[axis] = self._errors(weight, gram, writer.width)
            if block.heads > 1:
                heads = self._errors(weight, gram, writer.width // writer.heads)
                found[f"{axis}.heads"] = heads.reshape(block.units, block.heads)
        return found

    def _errors(self, weight: Tensor, gram: Tensor, width: int) -> np.ndarray:
        """[columns / width] of a weight [out, columns].

        gram: blocks of H [n, columns / n, columns / n], or its inverse [columns, columns] where a ridge is given.
        """
        if self.ridge is None:
            columns = weight.view(len(weight), -1, width).permute(1, 2, 0)  # [parts, width, out]
            errors = (columns * (diagonal_blocks(gram, width) @ columns)).sum((1, 2))
        else:
            errors = removal_errors(weight, gram, width)
        return errors.cpu().numpy()


@dataclass(frozen=True)
class RemovalLoss(Collector):
    """Layer and axis -> loss of the model with that layer (or only that block) skipped − loss of the unchanged model.

    samples: of the calibration set, from its beginning; a skipped block adds nothing to the residual stream.
    """

    samples: int = 50

    depth = Depth.REMOVAL

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        """From the summed losses of "layer", of each axis, and of "", the whole model; `layer.tokens` counts predicted tokens."""
        return {name: (sums.numpy(name) - sums.numpy("")) / layer.tokens for name in sums if name}
