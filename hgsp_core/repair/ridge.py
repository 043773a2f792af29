"""Ridge regression in closed form: weights of the columns that stay which give back what all of them gave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hgsp_core.repair.held_out import HeldOut

#: so many outputs, evenly spaced, tell which ridge is best, or nearly so
OUTPUTS = 128


class Ridge:
    """G + λI, λ = ridge · mean(diag G), factorised once for any number of fits.

    A fit is the W [out, kept] in fp64 that minimises Σ |y − W x|² + λ |W − W°|². The pull is towards the weights W° that are
    there: where tokens are few for so many columns, they know more than zero does.

    Args:
        gram: G = Σ x xᵀ [kept, kept] over the columns that stay.
    """

    def __init__(self, gram: Tensor, ridge: float):
        gram = gram.to(torch.float64, copy=True)
        self.ridge = ridge
        self.pull = float(ridge * gram.diagonal().mean())
        gram.diagonal().add_(self.pull)
        self._factor, failed = torch.linalg.cholesky_ex(gram)
        # inputs that depend on each other and no ridge: the least-norm solution
        self._pseudo_inverse = torch.linalg.pinv(gram, hermitian=True) if failed else None

    def fit(self, cross: Tensor, old: Tensor) -> Tensor:
        """W of C = Σ y xᵀ [out, kept] and of the weights W° [out, kept]."""
        cross = cross.double() + self.pull * old
        if self._pseudo_inverse is not None:
            return cross @ self._pseudo_inverse
        return torch.cholesky_solve(cross.T, self._factor).T


def best_ridge(
    ridges: Sequence[float], gram: Tensor, cross: Tensor, old: Tensor, held_out: HeldOut, bias: Tensor | None = None
) -> Ridge:
    """The one of the ridges whose fit has the least error on held-out windows, judged by a part of the outputs.

    Args:
        gram, cross, old: as for `Ridge` and its `fit`.
    """
    some = slice(None, None, max(1, len(cross) // OUTPUTS))
    few, cross, old, bias = held_out.outputs(some), cross[some], old[some], None if bias is None else bias[some]
    return min(
        (Ridge(gram, ridge) for ridge in ridges), key=lambda ridge: few.squared_error(ridge.fit(cross, old), bias)
    )
