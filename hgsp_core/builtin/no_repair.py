"""The reconstructor that does nothing: the ablation of every other one."""

from hgsp_core.types import LayerJob, Params


class NoRepair:
    collectors = ()

    def __init__(self, params: Params):
        pass

    def __call__(self, job: LayerJob) -> dict:
        return {}
