"""Backward elimination of a linear's columns: Optimal Brain Surgeon for whole units (Hassibi & Stork 1993).

With H = X Xᵀ + λI of the linear's input and S the columns of a unit:

    error of removing S      E_S = tr(W_S [(H⁻¹)_SS]⁻¹ W_Sᵀ)   (`obs.py`)
    update of what stays     W_K ← W_K − W_S [(H⁻¹)_SS]⁻¹ (H⁻¹)_SK
    inverse Hessian of it    (H⁻¹)_KK ← (H⁻¹)_KK − (H⁻¹)_KS [(H⁻¹)_SS]⁻¹ (H⁻¹)_SK

After any sequence of steps the weights are those of the direct solution for the set that is left, W H_:K (H_KK)⁻¹: least
squares with a pull of λ towards the old weights. The errors of the steps add up to the error of that solution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hgsp_core.engine.obs import removal_errors


def eliminate(w: Tensor, inverse: Tensor, width: int, keep: int, batch: Callable[[int], int]) -> Tensor:
    """Remove the units of least E_S until `keep` are left; E_S is found anew after each batch of them. Works in place.

    Args:
        w: [out, units * width] fp64; on return the weights of what stays, zero where units went.
        inverse: H⁻¹ [units * width, units * width] fp64 (`inverse_hessian`); on return that of what stays.
        batch: how many units still have to go -> how many go at once.

    Returns:
        the units that stay, ascending [keep].
    """
    stays = torch.ones(w.shape[1] // width, dtype=torch.bool, device=w.device)
    for gone, _ in elimination(w, inverse, width, keep, batch):
        stays[gone] = False
    return stays.nonzero().flatten()


def elimination(
    w: Tensor, inverse: Tensor, width: int, keep: int, batch: Callable[[int], int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The steps of `eliminate`, one by one: the units that go at once, least error first, and E_S of all of them []."""
    alive = torch.arange(w.shape[1] // width, device=w.device)
    while left := len(alive) - keep:
        order = removal_errors(w, inverse, width)[alive].argsort(stable=True)
        going = min(left, batch(left))
        gone = alive[order[:going]]
        yield gone, remove(w, inverse, columns_of(gone, width))
        alive = alive[order[going:]].sort().values


def remove(w: Tensor, inverse: Tensor, gone: Tensor) -> Tensor:
    """Both updates, in place; the columns `gone` (and rows, of the inverse) become zero. Returns their error E_S []."""
    rows, columns = inverse[gone], w[:, gone]
    factor = torch.linalg.cholesky(rows[:, gone])
    across = torch.cholesky_solve(rows, factor)  # [(H⁻¹)_SS]⁻¹ (H⁻¹)_S:
    w.addmm_(columns, across, alpha=-1)
    inverse.addmm_(rows.T, across, alpha=-1)
    w[:, gone] = 0
    inverse[gone], inverse[:, gone] = 0, 0
    return torch.linalg.solve_triangular(factor, columns.T, upper=False).square().sum()


def columns_of(units: Tensor, width: int) -> Tensor:
    """Columns of the units, on their device."""
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()
