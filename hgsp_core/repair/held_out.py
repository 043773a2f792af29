"""Windows that no fit may use: what a fit makes of them, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hgsp_core.engine.parallel import add_up


@dataclass(frozen=True)
class HeldOut:
    """Inputs of a linear and the outputs that it should give, of this process's micro-batches.

    x  [tokens, in] of each;  y  [tokens, out], of the last of the reconstructor's targets
    """

    x: Sequence[Tensor]
    y: Sequence[Tensor]

    def squared_error(self, weight: Tensor, bias: Tensor | None = None) -> float:
        """Σ |y − W x − b|² over the tokens of all processes: products in fp32, their sum in fp64."""
        total = torch.zeros((), dtype=torch.float64, device=weight.device)
        weight = weight.float()
        for x, y in zip(self.x, self.y, strict=True):
            error = torch.nn.functional.linear(x.float(), weight, bias).sub_(y)
            total += error.square_().sum(dtype=torch.float64)
        add_up([total])
        return float(total)

    def inputs(self, columns: Tensor) -> HeldOut:
        """The same, with some columns of x only."""
        return HeldOut([x[:, columns] for x in self.x], self.y)

    def outputs(self, columns: slice) -> HeldOut:
        """The same, with some columns of y only."""
        return HeldOut(self.x, [y[:, columns] for y in self.y])
