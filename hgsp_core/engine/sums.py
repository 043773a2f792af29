"""What adds up over tokens, micro-batches and processes: statistics, gradients, and the Gram matrices of fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from hgsp_core.engine.parallel import add_up

#: a Gram matrix is added up in so many bands of rows, each from the diagonal on: 9/16 of all products, of 8 bands
BANDS = 8


class Sums(dict[str, Tensor]):
    """Name -> what has been added up so far, on the device of what was added: matrices in fp32, vectors and numbers in fp64.

    Gram matrices are complete after `add_up`: before, what lies left of the diagonal is not.
    """

    def __init__(self, sums: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        super().__init__(sums)
        self._grams: set[str] = set()

    def add(self, name: str, value: Tensor) -> None:
        value = value.detach()
        if name in self:
            self[name] += value
        else:
            self[name] = value.to(torch.float32 if value.dim() > 1 else torch.float64, copy=True)

    def add_gram(self, name: str, x: Tensor) -> None:
        """Add xᵀx [features, features] of activations x [tokens, features]."""
        x = x.detach().float()
        if name not in self:
            self[name] = torch.zeros(x.shape[1], x.shape[1], device=x.device)
        self._grams.add(name)
        for band, first in _bands(self[name]):
            band.addmm_(x[:, first : first + len(band)].T, x[:, first:])

    def add_cross(self, name: str, y: Tensor, x: Tensor) -> None:
        """Add yᵀx [out, in] of y [tokens, out] and x [tokens, in], without a temporary of that size."""
        y, x = y.detach().float(), x.detach().float()
        if name not in self:
            self[name] = torch.zeros(y.shape[1], x.shape[1], device=x.device)
        self[name].addmm_(y.T, x)

    def add_gram_blocks(self, name: str, x: Tensor, width: int) -> None:
        """Add the blocks on the diagonal of xᵀx, [features / width, width, width], of activations x [tokens, features]."""
        self.add(name, gram_blocks(x.detach().float(), width))

    def add_up(self) -> None:
        """Replace each sum by that over all processes."""
        add_up(self.values())
        for name in self._grams & self.keys():
            for band, first in _bands(self[name]):
                last = first + len(band)
                self[name][last:, first:last] = band[:, len(band) :].T

    def numpy(self, name: str) -> np.ndarray:
        return self[name].cpu().numpy()


def _bands(gram: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Some rows, from the diagonal on, and the number of the first; of all rows of a square matrix."""
    size = -(-len(gram) // BANDS)
    for first in range(0, len(gram), size):
        yield gram[first : first + size, first:], first


def gram_blocks(x: Tensor, width: int) -> Tensor:
    """The blocks on the diagonal of xᵀx, [columns / width, width, width], of x [rows, columns]."""
    if width == 1:
        return x.square().sum(0).view(-1, 1, 1)
    parts = x.view(len(x), -1, width).transpose(0, 1)  # [parts, rows, width]
    return parts.mT @ parts
