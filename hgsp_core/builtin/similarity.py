"""`similarity`: how far a layer or block turns the residual stream; Block Influence of ShortGPT, eq. 1 (R3)."""

import numpy as np

from hgsp_core.artifacts import Priors
from hgsp_core.sweep.collectors import ResidualCosine
from hgsp_core.types import Params, PriorJob


class Similarity:
    collectors = (ResidualCosine(),)

    def __init__(self, params: Params):
        pass

    def __call__(self, job: PriorJob) -> Priors:
        layers = job.statistics[ResidualCosine()]
        axes = [axis.name for axis in job.layout.architecture.axes]
        return Priors(
            layer=np.array([layer["layer"] for layer in layers]),
            blocks={axis: np.array([layer[axis] for layer in layers]) for axis in axes},
        )
