"""`random`: noise as score, the same for the same seed: the control that every other scorer must beat (R2)."""

import numpy as np

from hgsp_core.artifacts import Scores
from hgsp_core.plugin.method import Params
from hgsp_core.score.contract import ScoreJob, Scorer


class Random(Scorer[Params]):
    collectors = ()

    def __call__(self, job: ScoreJob) -> Scores:
        generator = np.random.default_rng(job.seed)
        # times the cost, so that importance / cost is the noise itself and no axis is favoured for being cheap
        noise = [
            {axis: generator.random(block.units) * block.unit_cost for axis, block in layer.blocks.items()}
            for layer in job.layout.layers
        ]
        return Scores.of(job.layout, noise)
