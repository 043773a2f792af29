"""Methods with one fault each."""

import random

import numpy as np
import torch

from hgsp_core.allocate.contract import Allocator
from hgsp_core.artifacts import Plan, Priors, Scores
from hgsp_core.data.contract import Dataset
from hgsp_core.engine.collectors import ResidualCosine, WeightAbs
from hgsp_core.plugin.method import Params
from hgsp_core.repair.contract import Reconstructor, Repair
from hgsp_core.score.contract import Normalizer, Prior, Scorer


class Weighing(Scorer[Params]):
    """Nothing yet but what it needs."""

    collectors = (WeightAbs(),)


class Repairing(Reconstructor[Params]):
    """Nothing yet but what it needs."""

    targets = ("own",)


class Silent(Dataset[Params]):
    """No dataset, as it cannot be called."""


class Magnitude(Weighing):
    """A right scorer, with a parameter or without."""

    def __call__(self, job):
        return Scores.of(job.layout, job.statistics[WeightAbs()])


class ByWriter(Magnitude):
    """Takes every block for one with a writer."""

    def __call__(self, job):
        assert all(block.writer for block in job.layout.blocks())
        return super().__call__(job)


class Plain:
    """A right scorer in all but that it subclasses no contract."""

    collectors = ()

    def __init__(self, params: Params):
        pass

    def __call__(self, job):
        return Scores.of(job.layout, [{k: np.ones(b.units) for k, b in x.blocks.items()} for x in job.layout.layers])


class Undeclared(Weighing):
    def __call__(self, job):
        return Scores.of(job.layout, [{k: v * 0 for k, v in x.items()} for x in job.statistics[ResidualCosine()]])


class NotFinite(Magnitude):
    def __call__(self, job):
        scores = super().__call__(job)
        return scores.with_score(np.where(np.arange(len(scores)) == 30, np.nan, scores.score))


class WrongShape(Weighing):
    def __call__(self, job):
        return Scores.of(job.layout, [{axis: [1.0] for axis in layer.blocks} for layer in job.layout.layers])


class Shuffled(Magnitude):
    def __call__(self, job):
        scores = super().__call__(job)
        return Scores(**{**vars(scores), "layer": scores.layer[::-1]})


class Seedless(Weighing):
    collectors = ()

    def __call__(self, job):
        return Scores.of(
            job.layout,
            [
                {axis: np.random.random(block.units) for axis, block in layer.blocks.items()}
                for layer in job.layout.layers
            ],
        )


class Scribbler(Weighing):
    def __call__(self, job):
        for layer in job.statistics[WeightAbs()]:
            for values in layer.values():
                values /= values.max()
        return Scores.of(job.layout, job.statistics[WeightAbs()])


class FlatPrior(Prior[Params]):
    collectors = ()
    value = 1.0

    def __call__(self, job):
        return Priors(np.full(len(job.layout.layers), self.value), {})


class NoPrior(FlatPrior):
    value = np.nan


class ShortPrior(Prior[Params]):
    def __call__(self, job):
        return Priors(np.ones(1), {})


class GuessedPrior(Prior[Params]):
    collectors = ()

    def __call__(self, job):
        return Priors(np.array([random.random() for _ in job.layout.layers]), {})


class Same(Normalizer[Params]):
    """A right normalizer."""

    def __call__(self, job):
        return job.scores


class Reimportant(Normalizer[Params]):
    def __call__(self, job):
        return Scores(**{**vars(job.scores), "importance": job.scores.importance * 2})


class Logarithm(Normalizer[Params]):
    def __call__(self, job):
        with np.errstate(all="ignore"):
            return job.scores.with_score(np.log(job.scores.score))


class Reverse(Normalizer[Params]):
    def __call__(self, job):
        return job.scores.with_score(-job.scores.score)


class InPlace(Normalizer[Params]):
    def __call__(self, job):
        job.scores.score[:] = job.scores.score / 2
        return job.scores


class Half(Allocator[Params]):
    """A right allocator, without a ratio."""

    def kept(self, block, job):
        return range((block.units + 1) // 2)

    def __call__(self, job):
        kept = {(b.layer, b.axis.name): self.kept(b, job) for b in job.layout.blocks()}
        return Plan.of(job.layout, kept, job.layout.layer_parameters)


class SameAxes(Half):
    """Takes every layer for one with all axes."""

    def __call__(self, job):
        axes = [axis.name for axis in job.layout.architecture.axes]
        kept = {(x.index, a): self.kept(x.blocks[a], job) for x in job.layout.layers for a in axes}
        return Plan.of(job.layout, kept, job.layout.layer_parameters)


class Overdrawn(Half):
    """Removes half of everything, whatever the ratio."""

    def __call__(self, job):
        plan = super().__call__(job)
        return Plan(plan.layers, plan.before, plan.before - int(self.params.ratio * plan.before))


class Idle(Half):
    def kept(self, block, job):
        return range(block.units)


class Nothing(Half):
    def kept(self, block, job):
        return ()


class OutOfRange(Half):
    def kept(self, block, job):
        return [block.units]


class SecretPriors(Half):
    def kept(self, block, job):
        return range(block.units if job.priors.layer[block.layer] > 1 else 1)


class Dice(Half):
    def kept(self, block, job):
        return [int(torch.randint(block.units, ()))]


class AsItWas(Repairing):
    """A right reconstructor."""

    def __call__(self, job):
        return Repair(job.kept, job.weight, job.bias)


class Narrow(Repairing):
    def __call__(self, job):
        return Repair(job.kept, job.weight[:, list(job.kept)], job.bias)


class FewerUnits(Repairing):
    def __call__(self, job):
        return Repair(job.kept[1:], job.weight, job.bias)


class AlwaysBias(Repairing):
    def __call__(self, job):
        return Repair(job.kept, job.weight, torch.zeros(len(job.weight)))


class SmallMap(AsItWas):
    reads = True

    def read(self, job):
        return torch.eye(3)


class BlocksOnly(AsItWas):
    reads = True

    def read(self, job):
        return torch.eye(len(job.fit.gram)) * (job.block.layer > 0)


class Doubled(Repairing):
    def __call__(self, job):
        return Repair(job.kept, job.weight.mul_(2), job.bias)


class NoText(Dataset[Params]):
    def __call__(self, job):
        return []


class Bytes(Dataset[Params]):
    def __call__(self, job):
        return [b"bytes"]


class Lottery(Dataset[Params]):
    def __call__(self, job):
        yield f"number {random.random()}"
