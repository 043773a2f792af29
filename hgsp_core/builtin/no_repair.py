"""The reconstructor that does nothing: the ablation of every other one."""

from hgsp_core.types import BlockJob, Params, Repair


class NoRepair:
    targets = ()

    def __init__(self, params: Params):
        pass

    def __call__(self, job: BlockJob) -> Repair:
        return Repair(job.kept, job.weight, job.bias)
