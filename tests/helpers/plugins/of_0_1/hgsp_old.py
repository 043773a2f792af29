"""A plugin as 0.1 had them: modules by their old names, classes that subclass nothing. It must go on working until 1.0."""

from hgsp_core.types import Params

from hgsp_core import Method, Scores, hookimpl


class Old:
    """Importance is the sum of |W|."""

    @property
    def collectors(self):
        from hgsp_core.sweep.collectors import WeightAbs

        return (WeightAbs(),)

    def __init__(self, params: Params):
        self.params = params

    def __call__(self, job):
        return Scores.of(job.layout, job.statistics[self.collectors[0]])


class Counted:
    """Two models side by side, as an evaluator with `compare` was."""

    whole_model = True

    def __init__(self, params: Params):
        pass

    def __call__(self, job):
        return {"tensors": len(list(job.model.parameters()))}

    def compare(self, dense, pruned):
        return self(dense), self(pruned)


@hookimpl
def hgsp_scorers():
    return [Method("old", "hgsp_old:Old", summary="sum of |W|")]


@hookimpl
def hgsp_evaluators():
    return [Method("counted", "hgsp_old:Counted", summary="number of tensors")]
