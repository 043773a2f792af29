"""Least squares: what stays in a writer takes over what it can of what goes (ridge regression in closed form).

For the kept columns K of a writer (o_proj, down_proj), input x and target y:

    Ŵ_K = C_K (G_KK + λI)⁻¹,   G = Σ x xᵀ,  C = Σ y xᵀ,  λ = ρ · mean(diag G_KK)

With y = W x this is the Optimal Brain Surgeon update for that mask (Hassibi & Stork 1993; Frantar & Alistarh 2022, eq. 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hgsp_core.builtin.least_squares_params import LeastSquaresParams
from hgsp_core.sweep.ridge import ridge_fit
from hgsp_core.types import BlockJob, Moments, Repair


class LeastSquares:
    """Fits every target asked for; applies the fit that does best on held-out windows, or none if none does better."""

    def __init__(self, params: LeastSquaresParams):
        self.params = params
        self.targets = ("own", "dense", "residual") if params.target == "auto" else (params.target,)

    def __call__(self, job: BlockJob) -> Repair:
        judge = self.targets[-1]
        columns = job.columns.to(job.weight.device)
        untouched = torch.zeros_like(job.weight)
        untouched[:, columns] = job.weight[:, columns]
        best, least = untouched, squared_error(untouched, job.bias, job.held_out, judge)
        for target in self.targets:
            fitted = torch.zeros_like(job.weight)
            fitted[:, columns] = fit(columns, job.bias, job.fit, target, self.params.ridge).to(fitted.dtype)
            error = squared_error(fitted, job.bias, job.held_out, judge)
            if error < least:
                best, least = fitted, error
        note = "not repaired: no fit does better on held-out windows" if best is untouched else ""
        return Repair(job.kept, best, job.bias, note)


def fit(columns: Tensor, bias: Tensor | None, moments: Moments, target: str, ridge: float) -> Tensor:
    """Ŵ_K [out, kept columns] in fp64, of the columns that stay."""
    return ridge_fit(moments.gram[columns][:, columns], _cross(bias, moments, target)[:, columns], ridge)


def squared_error(weight: Tensor, bias: Tensor | None, moments: Moments, target: str) -> float:
    """Σ |y − W x − b|² over the tokens, up to a constant that no W changes: |y|² − 2 tr(W Cᵀ) + tr(W G Wᵀ), C of y − b."""
    w = weight.double()
    return moments.power[target] - 2 * float((w * _cross(bias, moments, target)).sum()) + float(((w @ moments.gram.double()) * w).sum())


def _cross(bias: Tensor | None, moments: Moments, target: str) -> Tensor:
    """Σ (y − b) xᵀ [out, in] fp64: the bias stays as it is, so the weights fit what it leaves."""
    cross = moments.cross[target].double()
    return cross if bias is None else cross - torch.outer(bias.double(), moments.total.double())
