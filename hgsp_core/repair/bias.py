"""Bias compensation of FLAP (An et al. 2023, arXiv 2312.11983): the mean of what goes is put into the writer's bias.

b ← b + Σ over removed columns j of W_:,j · mean(X_j): a constant input is replaced exactly. The paper's means are those of
the dense model; here they are of the model as it is pruned below, which is what flows.
"""

from hgsp_core.plugin.method import Params
from hgsp_core.repair.contract import BlockJob, Reconstructor, Repair


class Bias(Reconstructor[Params]):
    """Weights stay as they are; a block without a place for a bias stays as it is, and says so."""

    targets = ("own",)

    def __call__(self, job: BlockJob) -> Repair:
        if job.bias is None:
            linear = job.writer.module.rpartition(".")[2]
            return Repair(job.kept, job.weight, None, f"not compensated: {linear} has no bias in this model")
        mean = (job.fit.total / job.fit.tokens).to(job.weight.dtype)
        mean[job.columns.to(mean.device)] = 0  # only what goes is compensated
        return Repair(job.kept, job.weight, job.bias + job.weight @ mean)
