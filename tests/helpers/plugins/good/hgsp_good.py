"""A third party's scorer in thirty lines: keeps the units that come first."""

import numpy as np
from pydantic import Field

from hgsp_core import Method, Params, Scorer, Scores, hookimpl


class FirstParams(Params):
    power: float = Field(1.0, gt=0, le=4, description="how steeply importance falls, 0..4")


class First(Scorer[FirstParams]):
    def __call__(self, job):
        print("a plugin that prints")  # must not reach stdout, which belongs to the result
        fall = [
            {name: np.arange(b.units, 0, -1) ** self.params.power * b.unit_cost for name, b in layer.blocks.items()}
            for layer in job.layout.layers
        ]
        return Scores.of(job.layout, fall)


@hookimpl
def hgsp_scorers():
    return [Method("first", "hgsp_good:First", FirstParams, "keeps the units that come first")]
