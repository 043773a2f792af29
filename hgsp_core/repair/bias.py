"""The bias compensation of FLAP."""

from hgsp_core.plugin.method import Params
from hgsp_core.repair.contract import BlockJob, Reconstructor, Repair


class Bias(Reconstructor[Params]):
    """Adds the mean contribution of the removed columns to the writer's bias.

    Formula: `b ← b + Σ_j W_:,j · mean(X_j)` over the removed columns j: a constant input is replaced exactly.
    Source: FLAP (An et al. 2023, arXiv 2312.11983).
    Cost: about two forwards.
    When: the ablation of `least-squares` that leaves all weights unchanged.
    Notes: The means are those of the model pruned so far; the paper takes those of the dense model. A block whose
        writer has no bias does not change, and the notes of the run say so.
    """

    targets = ("own",)

    def __call__(self, job: BlockJob) -> Repair:
        if job.bias is None:
            linear = job.writer.module.rpartition(".")[2]
            return Repair(job.kept, job.weight, None, f"not compensated: {linear} has no bias in this model")
        mean = (job.fit.total / job.fit.tokens).to(job.weight.dtype)
        mean[job.columns.to(mean.device)] = 0  # only removed columns are compensated
        return Repair(job.kept, job.weight, job.bias + job.weight @ mean)
