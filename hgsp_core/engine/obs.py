"""Optimal Brain Surgeon's error of removing whole units (Hassibi & Stork 1993): for scores, and for the repair.

With H = X Xᵀ + λI of the linear's input and S the columns of a unit, the kept columns refitted:

    E_S = tr(W_S [(H⁻¹)_SS]⁻¹ W_Sᵀ)
"""

from __future__ import annotations

import torch
from torch import Tensor

from hgsp_core.engine.sums import gram_blocks


def inverse_hessian(gram: Tensor, damping: float) -> Tensor:
    """(X Xᵀ + λI)⁻¹ [in, in] in fp64, λ = damping · mean(diag X Xᵀ). Where all inputs are 0, λ = damping."""
    h = gram.to(torch.float64, copy=True)
    power = float(h.diagonal().mean()) or 1.0
    h.diagonal().add_(damping * power)
    return torch.cholesky_inverse(torch.linalg.cholesky(h))


def removal_errors(w: Tensor, inverse: Tensor, width: int) -> Tensor:
    """E_S of each unit [units].

    Args:
        w: [out, units · width].
        inverse: H⁻¹ [units · width, units · width].
    """
    return errors_of_blocks(w, diagonal_blocks(inverse.unsqueeze(0), width))


def errors_of_blocks(w: Tensor, blocks: Tensor) -> Tensor:
    """The same; blocks: (H⁻¹)_SS of each unit [units, width, width]."""
    squares = gram_blocks(w, blocks.shape[-1])  # W_Sᵀ W_S
    factor, _ = torch.linalg.cholesky_ex(blocks)
    return torch.cholesky_solve(squares, factor).diagonal(dim1=1, dim2=2).sum(1)


def diagonal_blocks(matrices: Tensor, width: int) -> Tensor:
    """[n · size / width, width, width]: the blocks on the diagonals of matrices [n, size, size]."""
    parts = matrices.shape[1] // width
    blocks = matrices.view(-1, parts, width, parts, width).diagonal(dim1=1, dim2=3)  # [n, width, width, parts]
    return blocks.permute(0, 3, 1, 2).flatten(0, 1)
