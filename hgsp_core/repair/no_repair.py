"""The reconstructor that does nothing: the ablation of every other one."""

from hgsp_core.plugin.method import Params
from hgsp_core.repair.contract import BlockJob, Reconstructor, Repair


class NoRepair(Reconstructor[Params]):
    targets = ()

    def __call__(self, job: BlockJob) -> Repair:
        return Repair(job.kept, job.weight, job.bias)
