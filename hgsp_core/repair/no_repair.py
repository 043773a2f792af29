"""The reconstructor that does nothing."""

from hgsp_core.plugin.method import Params
from hgsp_core.repair.contract import BlockJob, Reconstructor, Repair


class NoRepair(Reconstructor[Params]):
    """Does not change the kept weights.

    Cost: none.
    When: training follows; the ablation of every other reconstructor.
    """

    targets = ()

    def __call__(self, job: BlockJob) -> Repair:
        return Repair(job.kept, job.weight, job.bias)
