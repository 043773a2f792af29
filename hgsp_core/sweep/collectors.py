"""Collectors: what a sweep measures. A method lists the ones it needs; the sweep runs the union of all, once.

A collector is a small frozen dataclass. It adds up over tokens, then turns the sums into numbers per unit or per layer, so
micro-batches and parallel processes change nothing but the order of additions. A plugin's own is written alike:

    @dataclass(frozen=True)
    class MeanOutput(Collector):
        depth = Depth.FORWARD

        def observe(self, layer, passage, sums):
            sums.add("layer", passage.after.float().mean(-1).sum())

        def reduce(self, layer, sums):
            return {"layer": sums.numpy("layer") / layer.tokens}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hgsp_core.artifacts import LayerStatistics
from hgsp_core.sweep.layer import Layer, Passage


class Depth(IntEnum):
    """How far a sweep must go for a collector; the deepest one decides."""

    WEIGHTS = 0  # no calibration data
    FORWARD = 1  # activations
    BACKWARD = 2  # gradients of the causal-LM loss


class Sums(dict[str, Tensor]):
    """Name -> what a collector has added up so far in one layer: matrices in fp32, vectors and numbers in fp64."""

    def add(self, name: str, value: Tensor) -> None:
        value = value.detach()
        if name in self:
            self[name] += value
        else:
            self[name] = value.to(torch.float32 if value.dim() > 1 else torch.float64, copy=True)

    def add_gram(self, name: str, x: Tensor) -> None:
        """Add xᵀx [features, features] of activations x [tokens, features], without a temporary of that size."""
        x = x.detach().float()
        if name not in self:
            self[name] = torch.zeros(x.shape[1], x.shape[1], device=x.device)
        self[name].addmm_(x.T, x)

    def numpy(self, name: str) -> np.ndarray:
        return self[name].cpu().numpy()


@dataclass(frozen=True)
class Collector(ABC):
    """One measurement. `version` goes up when the same input would give other numbers; old results are then not reused."""

    depth: ClassVar[Depth]
    version: ClassVar[int] = 1

    @property
    def key(self) -> str:
        """The collector's name in a cache: class, version and parameters."""
        parameters = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))
        return f"{type(self).__module__}.{type(self).__qualname__}/{self.version}({parameters})"

    @property
    def needs_tokens(self) -> bool:
        return self.depth > Depth.WEIGHTS

    def observe(self, layer: Layer, passage: Passage, sums: Sums) -> None:
        """Add one micro-batch's share (FORWARD)."""

    @abstractmethod
    def reduce(self, layer: Layer, sums: Sums) -> LayerStatistics:
        """The layer's result, of the sums over the whole set: name -> array, keyed by axis, by linear, or "layer"."""


@dataclass(frozen=True)
class WeightAbs(Collector):
    """Axis -> Σ |W| over each unit's weights (and biases)."""

    depth = Depth.WEIGHTS

    def reduce(self, layer, sums):
        return layer.per_unit(lambda name: layer.weights[name].abs())


@dataclass(frozen=True)
class TaylorAbs(Collector):
    """Axis -> Σ |W·g| over each unit's weights (and biases), g = dL/dW of the mean loss over the whole set.

    The gradient is summed over the set before the absolute value (Molchanov et al. 2019, eq. 8, per weight).
    """

    depth = Depth.BACKWARD

    def reduce(self, layer, sums):
        return layer.per_unit(lambda name: (layer.weights[name].float() * layer.gradients[name]).abs_())


@dataclass(frozen=True)
class ResidualCosine(Collector):
    """"layer" and axis -> 1 - mean over tokens of cos(residual stream before, after): ShortGPT's Block Influence, eq. 1."""

    depth = Depth.FORWARD

    def observe(self, layer, passage, sums):
        sums.add("layer", _cosines(passage.before, passage.after))
        for axis, before, after in passage.residuals():
            sums.add(axis, _cosines(before, after))

    def reduce(self, layer, sums):
        return {name: 1 - sums.numpy(name) / layer.tokens for name in sums}


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Sum over tokens of cos(a, b), of a, b [batch, seq_len, hidden]."""
    return torch.cosine_similarity(a.float(), b.float(), dim=-1).double().sum()
