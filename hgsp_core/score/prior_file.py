"""Priors from a JSON file."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from hgsp_core.artifacts import Priors
from hgsp_core.files.forms import PriorNumbers
from hgsp_core.files.paths import expanded
from hgsp_core.files.text import read_object
from hgsp_core.plugin.method import Params
from hgsp_core.score.contract import Prior, PriorJob
from hgsp_core.score.errors import PriorFileError


class PriorFileParams(Params):
    path: str = Field(
        "layer_importance.json",
        min_length=1,
        description="path of a JSON file: {layer: [one number per layer], blocks: {axis: [...]}}",
    )


class PriorFile(Prior[PriorFileParams]):
    """Reads priors that were measured before.

    Source: `layer_importance.json` of a run, or a file made by hand.
    Cost: none.
    When: many runs of one model.
    """

    collectors = ()

    def __init__(self, params: PriorFileParams):
        super().__init__(params)
        self.path = expanded(params.path)

    def __call__(self, job: PriorJob) -> Priors:
        try:
            content = read_object(self.path, PriorNumbers)
            layer = _numbers(content["layer"])
            blocks = {axis: _numbers(values) for axis, values in content.get("blocks", {}).items()}
        except (OSError, ValueError) as error:
            raise PriorFileError.unreadable(self.path, error) from None
        known = [axis.name for axis in job.layout.architecture.axes]
        for axis in blocks:
            if axis not in known:
                raise PriorFileError.unknown_axis(self.path, axis, known)
        for name, values in {"layer": layer, **blocks}.items():
            if len(values) != len(job.layout.layers):
                raise PriorFileError.other_length(self.path, name, len(values), len(job.layout.layers))
        return Priors(layer, blocks)


def _numbers(values: list[float | None]) -> np.ndarray:
    """[layers]; null = not measured."""
    return np.array([np.nan if value is None else float(value) for value in values])
