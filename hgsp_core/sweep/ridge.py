"""Ridge regression in closed form: weights of the columns that stay which give back what all of them gave."""

from __future__ import annotations

import torch
from torch import Tensor


def ridge_fit(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """W [out, kept] in fp64 that minimises Σ |y − W x|² + λ |W|², with λ = ridge · mean(diag G).

    Args:
        gram: G = Σ x xᵀ [kept, kept] over the columns that stay.
        cross: C = Σ y xᵀ [out, kept].
    """
    gram = gram.to(torch.float64, copy=True)
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:  # inputs that depend on each other and no ridge: the least-norm solution
        return torch.linalg.lstsq(gram, cross.double().T, driver="gelsd").solution.T
    return torch.cholesky_solve(cross.double().T, factor).T
