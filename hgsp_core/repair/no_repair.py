"""The reconstructor that does nothing: the ablation of every other one."""

from hgsp_core.plugin.method import Params
from hgsp_core.repair.contract import BlockJob, Repair


class NoRepair:
    targets = ()

    def __init__(self, params: Params):
        pass

    def __call__(self, job: BlockJob) -> Repair:
        return Repair(job.kept, job.weight, job.bias)
