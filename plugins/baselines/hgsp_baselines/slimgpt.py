"""SlimGPT (Ling et al. 2024, arXiv 2412.18110): optimal brain surgery on whole groups of columns, block after block.

With H = X Xᵀ + λI of the writer's input (o_proj, down_proj) on the model pruned so far, λ = damping · mean(diag X Xᵀ),
and S the columns of a unit (Hassibi & Stork 1993, for a set of columns as in Frantar & Alistarh 2022):

    error of removing S      E_S = tr(W_S [(H⁻¹)_SS]⁻¹ W_Sᵀ) = ‖L⁻¹ W_Sᵀ‖²,   L Lᵀ = (H⁻¹)_SS
    update of what stays     W_K ← W_K − W_S [(H⁻¹)_SS]⁻¹ (H⁻¹)_SK
    inverse Hessian of it    (H⁻¹)_KK ← (H⁻¹)_KK − (H⁻¹)_KS [(H⁻¹)_SS]⁻¹ (H⁻¹)_SK

Attention groups go one at a time, all their L from one batched Cholesky decomposition. MLP channels go in batches of half
of what is still to go, within `largest_batch` .. `smallest_batch`: coarse first, fine where the choice gets hard.

After any sequence of steps the weights are those of the direct solution for the set that is left, W H_:K (H_KK)⁻¹: least
squares with a pull of λ towards the old weights. The paper's estimate of E_S for heads uses the diagonal of L alone, with
W_S not updated inside the group; this is the exact error, from the same decomposition.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hgsp_baselines.slimgpt_params import SlimGPTParams
from hgsp_core import Repair
from hgsp_core.surgery import positions
from hgsp_core.types import BlockJob


class SlimGPT:
    """As many units stay as planned; which ones is decided here, from the inputs as the pruned model below makes them."""

    targets = ("own",)

    def __init__(self, params: SlimGPTParams):
        self.params = params

    def __call__(self, job: BlockJob) -> Repair:
        p, width = self.params, job.writer.width
        w, inverse = job.weight.double(), inverse_hessian(job.fit.gram, p.damping)
        if len(job.columns) != len(job.kept) * width:  # single query heads go: which ones is decided already
            stays = job.columns.to(w.device)
            gone = torch.ones(w.shape[1], dtype=torch.bool, device=w.device).index_fill(0, stays, False).nonzero().flatten()
            return Repair(job.kept, _filled(job.weight, stays, removed(w, inverse, gone, stays)[0]), job.bias)
        alive = torch.arange(job.block.units, device=w.device)
        while left := len(alive) - len(job.kept):
            batch = 1 if job.block.axis.cache else min(left, max(p.smallest_batch, min(p.largest_batch, left // 2)))
            order = removal_errors(w, inverse, width).argsort(stable=True)
            stays = order[batch:].sort().values
            w, inverse = removed(w, inverse, _columns(order[:batch], width), _columns(stays, width))
            alive = alive[stays]
        return Repair(tuple(alive.tolist()), _filled(job.weight, _columns(alive, width), w), job.bias)


def _filled(like: Tensor, columns: Tensor, w: Tensor) -> Tensor:
    """A weight at its old size [out, in] that holds w [out, columns], and zeros elsewhere."""
    weight = torch.zeros_like(like)
    weight[:, columns] = w.to(weight.dtype)
    return weight


def inverse_hessian(gram: Tensor, damping: float) -> Tensor:
    """(X Xᵀ + λI)⁻¹ [in, in] in fp64. Where all inputs are 0, λ = damping."""
    h = gram.double().clone()
    power = float(h.diagonal().mean()) or 1.0
    h.diagonal().add_(damping * power)
    return torch.cholesky_inverse(torch.linalg.cholesky(h))


def removal_errors(w: Tensor, inverse: Tensor, width: int) -> Tensor:
    """E_S of each unit [units]; w [out, units * width], inverse [units * width, units * width]."""
    units = w.shape[1] // width
    blocks = inverse.view(units, width, units, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # [units, width, width]
    columns = w.view(-1, units, width).permute(1, 2, 0)  # [units, width, out]
    factor = torch.linalg.cholesky(blocks)
    return torch.linalg.solve_triangular(factor, columns, upper=False).square().sum((1, 2))


def removed(w: Tensor, inverse: Tensor, gone: Tensor, stays: Tensor) -> tuple[Tensor, Tensor]:
    """What stays of w [out, stays] and of the inverse Hessian [stays, stays] after the columns `gone` went."""
    factor = torch.linalg.cholesky(inverse[gone][:, gone])
    across = torch.cholesky_solve(inverse[gone][:, stays], factor)  # [(H⁻¹)_SS]⁻¹ (H⁻¹)_SK
    return w[:, stays] - w[:, gone] @ across, inverse[stays][:, stays] - inverse[stays][:, gone] @ across


def _columns(units: Tensor, width: int) -> Tensor:
    return positions(tuple(units.tolist()), width).to(units.device)
