"""SlimGPT (Ling et al. 2024, arXiv 2412.18110): optimal brain surgery on whole groups of columns, block after block.

Backward elimination (`hgsp_core.engine.elimination`: error, update and inverse Hessian for the columns of a unit) on the
inputs of o_proj and down_proj as the model pruned so far makes them, λ = damping · mean(diag X Xᵀ).

Attention groups go one at a time, all their L from one batched Cholesky decomposition. MLP channels go in batches of half
of what is still to go, within `largest_batch` .. `smallest_batch`: coarse first, fine where the choice gets hard.

The paper's estimate of E_S for heads uses the diagonal of L alone, with W_S not updated inside the group; this is the exact
error, from the same decomposition.
"""

from __future__ import annotations

import torch

from hgsp_baselines.slimgpt_params import SlimGPTParams
from hgsp_core import BlockJob, Reconstructor, Repair
from hgsp_core.engine.elimination import eliminate, remove
from hgsp_core.engine.obs import inverse_hessian


class SlimGPT(Reconstructor[SlimGPTParams]):
    """Chooses each block's units anew by optimal brain surgery, and updates the kept columns at each step.

    Formula: error of a unit: `tr(W_S [(H⁻¹)_SS]⁻¹ W_Sᵀ)`, with `H = X Xᵀ + λI` on the model pruned so far.
    Source: SlimGPT (Ling et al. 2024, arXiv 2412.18110).
    Cost: two forwards, one Gram matrix and its inverse in fp64, and 2·in·out for each removed column.
    When: with the allocator `slimgpt`.
    Notes: It keeps as many units as planned. Attention groups are removed one at a time; channels in batches of half
        of what is still to be removed, within `largest_batch` .. `smallest_batch`. For the kept set, the result
        equals the direct least-squares solution.
    """

    targets = ("own",)

    def __call__(self, job: BlockJob) -> Repair:
        w, inverse, width = job.weight.double(), inverse_hessian(job.fit.gram, self.params.damping), job.writer.width
        if len(job.columns) != len(job.kept) * width:  # single query heads go: which ones is decided already
            removed = torch.ones(w.shape[1], dtype=torch.bool, device=w.device)
            removed[job.columns.to(w.device)] = False
            remove(w, inverse, removed.nonzero().flatten())
            return Repair(job.kept, w.to(job.weight.dtype), job.bias)
        units = eliminate(w, inverse, width, len(job.kept), (lambda left: 1) if job.block.axis.cache else self._batch)
        return Repair(tuple(units.tolist()), w.to(job.weight.dtype), job.bias)

    def _batch(self, left: int) -> int:
        return max(self.params.smallest_batch, min(self.params.largest_batch, left // 2))
