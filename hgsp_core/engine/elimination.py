"""Backward elimination of a linear's columns: Optimal Brain Surgeon for whole units (Hassibi & Stork 1993).

With H = X Xᵀ + λI of the linear's input and S the columns of a unit:

    error of removing S      E_S = tr(W_S [(H⁻¹)_SS]⁻¹ W_Sᵀ)   (`obs.py`)
    update of what stays     W_K ← W_K − W_S [(H⁻¹)_SS]⁻¹ (H⁻¹)_SK
    inverse Hessian of it    (H⁻¹)_KK ← (H⁻¹)_KK − (H⁻¹)_KS [(H⁻¹)_SS]⁻¹ (H⁻¹)_SK

After any sequence of steps the weights are those of the direct solution for the set that is left, W H_:K (H_KK)⁻¹: least
squares with a pull of λ towards the old weights. The errors of the steps add up to the error of that solution.

The third line is a step of a Cholesky factorisation of H⁻¹ whose pivots are the units that go, (H⁻¹)_KK ← (H⁻¹)_KK − U_Kᵀ U_K.
So only the rows U of what went are computed, and of what is left the blocks (H⁻¹)_SS: removing all takes n³ / 3 multiplications.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hgsp_core.engine.obs import diagonal_blocks, errors_of_blocks
from hgsp_core.engine.sums import gram_blocks


def eliminate(w: Tensor, inverse: Tensor, width: int, keep: int, batch: Callable[[int], int]) -> Tensor:
    """Remove the units of least E_S until `keep` are left; E_S is found anew after each batch of them.

    Args:
        w: [out, units * width] fp64; on return the weights of what stays, zero where units went.
        inverse: H⁻¹ [units * width, units * width] fp64 (`inverse_hessian`); used up.
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
    state = _Elimination(w, inverse, width)
    while left := state.left - keep:
        order = state.by_error()
        gone = order[: min(left, batch(left))]
        yield gone, state.remove(gone)
    state.restore()


def remove(w: Tensor, inverse: Tensor, gone: Tensor) -> Tensor:
    """Both updates for the columns `gone`, which become zero; the arguments are those of `eliminate`. Returns their error []."""
    state = _Elimination(w, inverse, 1)
    error = state.remove(gone)
    state.restore()
    return error


class _Elimination:
    """W and H⁻¹ while units go, in place: units change places, so that those that are gone come first.

    Of `inverse`, the rows of gone units are U, and the others are as they were in the beginning.
    """

    def __init__(self, w: Tensor, inverse: Tensor, width: int) -> None:
        self._w, self._inverse, self._width = w, inverse, width
        self._blocks = diagonal_blocks(inverse.unsqueeze(0), width).clone()  # by place
        self._units = torch.arange(len(self._blocks), device=w.device)  # place -> unit
        self._gone = 0

    @property
    def left(self) -> int:
        return len(self._units) - self._gone

    def by_error(self) -> Tensor:
        """The units that are left [left], least E_S first."""
        units, ascending = self._units[self._gone :].sort()
        errors = errors_of_blocks(self._w[:, self._gone * self._width :], self._blocks[self._gone :])
        return units[errors[ascending].argsort(stable=True)]

    def remove(self, units: Tensor) -> Tensor:
        """Returns E_S of all of them []."""
        self._to_front(units)
        first, last = self._gone * self._width, (self._gone + len(units)) * self._width
        size = last - first
        before, rows = self._inverse[:first, first:], self._inverse[first:last, first:]
        rows.addmm_(before[:, :size].T, before, alpha=-1)  # (H⁻¹)_S: of what is left
        factor = torch.linalg.cholesky(rows[:, :size])
        rows.copy_(torch.linalg.solve_triangular(factor, rows, upper=False))
        scaled = torch.linalg.solve_triangular(factor, self._w[:, first:last].T, upper=False)  # [size, out]
        self._w[:, last:].addmm_(scaled.T, rows[:, size:], alpha=-1)
        self._w[:, first:last] = 0
        self._gone += len(units)
        self._blocks[self._gone :] -= gram_blocks(rows[:, size:], self._width)
        return scaled.square().sum()

    def _to_front(self, units: Tensor) -> None:
        """Behind those that are gone."""
        places = torch.empty_like(self._units)
        places[self._units] = torch.arange(len(places), device=places.device)
        end = self._gone + len(units)
        going = torch.zeros_like(places, dtype=torch.bool)
        going[places[units]] = True
        there = going[end:].nonzero().flatten() + end
        here = (~going[self._gone : end]).nonzero().flatten() + self._gone
        for tensor in (self._units, self._blocks):
            tensor[here], tensor[there] = tensor[there], tensor[here]
        here, there = columns_of(here, self._width), columns_of(there, self._width)
        both, swapped, first = torch.cat([here, there]), torch.cat([there, here]), self._gone * self._width
        inverse, w = self._inverse[:, first:], self._w[:, first:]
        inverse.index_copy_(0, both, inverse.index_select(0, swapped))
        for matrix in (inverse, w):
            matrix.index_copy_(1, both - first, matrix.gather(1, (swapped - first).expand(len(matrix), -1)))

    def restore(self) -> None:
        """Bring the columns of W back to where they were."""
        self._w[:, columns_of(self._units, self._width)] = self._w.clone()


def columns_of(units: Tensor, width: int) -> Tensor:
    """Columns of the units, on their device."""
    return (units[:, None] * width + torch.arange(width, device=units.device)).flatten()
