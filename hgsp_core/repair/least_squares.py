"""Least squares: what stays takes over what it can of what goes (ridge regression in closed form).

For the kept columns K of a writer (o_proj, down_proj), input x and target y:

    Ŵ_K = (C_K + λ W_K) (G_KK + λI)⁻¹,   G = Σ x xᵀ,  C = Σ y xᵀ,  λ = ρ · mean(diag G_KK)

The ridge pulls towards the weights that are there, not towards zero; ρ is chosen on held-out windows, as few tokens ask for more
of it. With y = W x this is the Optimal Brain Surgeon update for that mask (Hassibi & Stork 1993; Frantar & Alistarh 2022, eq. 3).
The kept units K are selected again by backward elimination from the fit of all columns (`elimination.py`), because the
scores were measured on the dense model, without repair.

Readers (q, k, v; gate, up; the head, where it is not the embedding as well) meet an input x that the cuts below have changed
from x° of the dense model. One linear map for all of a block's, fitted in the same way, leads back to it and is absorbed:
W ← W M,  M = I + (C − G)(G + λI)⁻¹,  C = Σ x° xᵀ.
GPTAQ (Li et al. 2025, arXiv 2504.02692) corrects quantised weights for the same drift.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hgsp_core.engine.elimination import columns_of, eliminate
from hgsp_core.engine.obs import inverse_hessian
from hgsp_core.repair.contract import BlockJob, Moments, ReadJob, Reconstructor, Repair
from hgsp_core.repair.held_out import HeldOut
from hgsp_core.repair.least_squares_params import LeastSquaresParams
from hgsp_core.repair.ridge import best_ridge

#: of the units that still have to go, the part that goes at once before errors are found anew
BATCH = 1 / 8
#: the values of ρ that `auto` chooses from
RIDGES = (0.01, 0.1, 1.0)
NOT_REPAIRED = "not repaired: no fit does better on held-out windows"
#: the ridge of an elimination that is asked to have none: H must have an inverse
TINY = 1e-6


@dataclass(frozen=True)
class Kept:
    """Units that stay, their columns, and the held-out windows with only these inputs."""

    units: tuple[int, ...]
    columns: Tensor
    held_out: HeldOut


class LeastSquares(Reconstructor[LeastSquaresParams]):
    """Refits the kept weights to compensate for the removed ones, block by block, in closed form.

    Formula: `Ŵ_K = (C_K + λ W_K) (G_KK + λI)⁻¹`, with `G = Σ x xᵀ`, `C = Σ y xᵀ` and `λ = ρ · mean(diag G_KK)`, for
        the kept columns K of a writer with input x and target y.
    Source: the Optimal Brain Surgeon update for the mask, with the target `own` (Hassibi & Stork 1993; Frantar &
        Alistarh 2022, eq. 3). Readers: the drift that GPTAQ corrects for (Li et al. 2025, arXiv 2504.02692).
    Cost: about two forwards; for each block the Gram matrix of a linear's input, its inverse, and in fp64 a factorisation
        for each ridge and a solve for each target.
    When: always; it is worth more than any scorer.
    Notes: **Writers.** The kept columns of o_proj and down_proj are fitted to three targets, `own`, `dense` and
        `residual`, on the model pruned so far. The ridge pulls towards the current weights. ρ is chosen from 0.01,
        0.1 and 1 (`ridge: auto`): few tokens for many columns need a larger one.

        **Reselection** (`reselect`). The same number of units is also selected again, by backward elimination from the
        fit of all columns. Where single query heads are removed, the plan decides. The fit with the lowest error on
        held-out windows (an eighth of the set) is applied, or none.

        **Damping** (`damp`). What a fit gets wrong is noise for all later blocks. So the output of each block is multiplied
        by its standard deviation relative to that in the dense model, if it is smaller. The later blocks are fitted as if
        it were not. It helps most where a token must be copied from the context.

        **Readers** (`readers`). q, k, v, gate and up, and the head if it is not tied to the embedding, absorb one linear
        map. It leads their input back to the input in the dense model. It is applied if it helps on held-out windows.

        A block that is removed entirely has no weights to fit. With `residual` and the readers, the blocks after it
        compensate.
    """

    def __init__(self, params: LeastSquaresParams):
        super().__init__(params)
        self.targets = ("own", "dense", "residual") if params.target == "auto" else (params.target,)
        self.ridges = RIDGES if params.ridge == "auto" else (params.ridge,)
        self.reads, self.damps = params.readers, params.damp

    def __call__(self, job: BlockJob) -> Repair:
        columns = job.columns.to(job.weight.device)
        planned = Kept(job.kept, columns, job.held_out.inputs(columns))
        old = job.weight[:, columns]
        best = Repair(job.kept, _widened(old, columns, job.weight), job.bias, NOT_REPAIRED)
        least = planned.held_out.squared_error(old, job.bias)
        for kept, fitted in self._fits(job, planned):
            error = kept.held_out.squared_error(fitted, job.bias)
            if error < least:
                best, least = Repair(kept.units, _widened(fitted, kept.columns, job.weight), job.bias), error
        return best

    def _fits(self, job: BlockJob, planned: Kept) -> Iterator[tuple[Kept, Tensor]]:
        """Weights [out, kept columns] of the planned units, and of units of its own choice; for each target."""
        columns = planned.columns
        gram, old = job.fit.gram[columns][:, columns], job.weight[:, columns]

        def cross(target: str) -> Tensor:
            return _cross(job.bias, job.fit, target)[:, columns]

        ridge = best_ridge(self.ridges, gram, cross(self.targets[-1]), old, planned.held_out, job.bias)
        for target in self.targets:
            yield planned, ridge.fit(cross(target), old)
        for units, w in self._anew(job, ridge.ridge):
            others = columns_of(units, job.writer.width)
            yield Kept(tuple(units.tolist()), others, job.held_out.inputs(others)), w[:, others]

    def _anew(self, job: BlockJob, ridge: float) -> Iterator[tuple[Tensor, Tensor]]:
        """(kept units of its own choice, writer at its old size), for each target.

        Nothing where query heads are removed, because the plan says which; nor behind a norm over all heads, where what
        other heads would give was not measured.
        """
        width = job.writer.width
        planned_heads, normed = len(job.columns) != len(job.kept) * width, any(s.is_norm for s in job.block.slices)
        if not self.params.reselect or planned_heads or normed:
            return
        ridge = ridge or TINY
        inverse = inverse_hessian(job.fit.gram, ridge)
        old = job.weight.double()
        pull = ridge * float(job.fit.gram.diagonal().double().mean()) * old
        for target in self.targets:
            # the fit of all columns; to what they give already it is what they are
            w = old.clone() if target == "own" else (_cross(job.bias, job.fit, target) + pull) @ inverse
            yield eliminate(w, inverse.clone(), width, len(job.kept), lambda left: max(1, int(BATCH * left))), w

    def read(self, job: ReadJob) -> Tensor | None:
        """M [in, in] fp64, or None where it does no better on held-out windows than what is there."""
        gram, error = job.fit.gram, job.held_out.squared_error
        same = torch.eye(len(gram), dtype=torch.float64, device=gram.device)
        cross = job.fit.cross["dense"].double()
        back = best_ridge(self.ridges, gram, cross, same, job.held_out).fit(cross, same)
        return back if error(back) < error(same) else None


def _widened(weight: Tensor, columns: Tensor, like: Tensor) -> Tensor:
    """The writer at its old size, zero where columns go."""
    wide = torch.zeros_like(like)
    wide[:, columns] = weight.to(like.dtype)
    return wide


def _cross(bias: Tensor | None, moments: Moments, target: str) -> Tensor:
    """Σ (y − b) xᵀ [out, in] fp64: the bias stays as it is, so the weights fit what it leaves."""
    cross = moments.cross[target].double()
    return cross if bias is None else cross - torch.outer(bias.double(), moments.total.double())
