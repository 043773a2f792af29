"""Ridge regression in closed form: weights of the columns that stay which give back what all of them gave."""

from __future__ import annotations

import torch
from torch import Tensor


def ridge_fit(gram: Tensor, cross: Tensor, ridge: float, old: Tensor) -> Tensor:
    """W [out, kept] in fp64 that minimises Σ |y − W x|² + λ |W − W°|², with λ = ridge · mean(diag G).

    The pull is towards the weights W° that are there: where tokens are few for so many columns, they know more than zero does.

    Args:
        gram: G = Σ x xᵀ [kept, kept] over the columns that stay.
        cross: C = Σ y xᵀ [out, kept].
        old: W° [out, kept].
    """
    gram = gram.to(torch.float64, copy=True)
    pull = float(ridge * gram.diagonal().mean())
    gram.diagonal().add_(pull)
    cross = cross.double() + pull * old
    factor, failed = torch.linalg.cholesky_ex(gram)
    if failed:  # inputs that depend on each other and no ridge: the least-norm solution
        return cross @ torch.linalg.pinv(gram, hermitian=True)
    return torch.cholesky_solve(cross.T, factor).T
