"""Optimal Brain Surgeon's error of removing whole units (Hassibi & Stork 1993): for scores, and for the repair.

With H = X Xᵀ + λI of the linear's input and S the columns of a unit, the kept columns refitted:

    E_S = tr(W_S [(H⁻¹)_SS]⁻¹ W_Sᵀ) = ‖L⁻¹ W_Sᵀ‖²,   L Lᵀ = (H⁻¹)_SS
"""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_hessian(gram: Tensor, damping: float) -> Tensor:
    """(X Xᵀ + λI)⁻¹ [in, in] in fp64, λ = damping · mean(diag X Xᵀ). Where all inputs are 0, λ = damping."""
    h = gram.to(torch.float64, copy=True)
    power = float(h.diagonal().mean()) or 1.0
    h.diagonal().add_(damping * power)
    return torch.cholesky_inverse(torch.linalg.cholesky(h))


def removal_errors(w: Tensor, inverse: Tensor, width: int) -> Tensor:
    """E_S of each unit [units]; meaningless for those that are gone.

    Args:
        w: [out, units · width].
        inverse: H⁻¹ [units · width, units · width], of the columns that are left.
    """
    columns = w.view(len(w), -1, width).permute(1, 2, 0)  # [units, width, out]
    factor, _ = torch.linalg.cholesky_ex(diagonal_blocks(inverse.unsqueeze(0), width))  # of a gone unit, of zeros
    return torch.linalg.solve_triangular(factor, columns, upper=False).square().sum((1, 2))


def diagonal_blocks(matrices: Tensor, width: int) -> Tensor:
    """[n · size / width, width, width]: the blocks on the diagonals of matrices [n, size, size]."""
    parts = matrices.shape[1] // width
    blocks = matrices.view(-1, parts, width, parts, width).diagonal(dim1=1, dim2=3)  # [n, width, width, parts]
    return blocks.permute(0, 3, 1, 2).flatten(0, 1)
