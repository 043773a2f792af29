"""Normalizers bring the scores of all layers to one scale: gradients of layers differ by factors of 1000 and more.

Each keeps the order of units inside a block and changes only the balance between blocks. With `level: layer` the order
inside a layer, attention against MLP, is kept too.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from hgsp_core.artifacts import Scores
from hgsp_core.plugin.method import Params
from hgsp_core.score.contract import NormalizeJob, Normalizer


class LevelParams(Params):
    """The set of units that shares one minimum, maximum, mean and deviation."""

    level: Literal["layer", "block"] = Field(
        "block", description="scope of the rescaling: each layer, or each block (attention, MLP) separately"
    )

    def groups(self, scores: Scores) -> np.ndarray:
        """[units] int: the group of each unit."""
        return scores.layer if self.level == "layer" else scores.layer * len(scores.axes) + scores.axis


class Keep(Normalizer[Params]):
    """Does not change the scores.

    Formula: `x`.
    When: the scores of all layers are on one scale already.
    """

    def __call__(self, job: NormalizeJob) -> Scores:
        return job.scores


class Log(Normalizer[LevelParams]):
    """Takes logarithms of the scores above the minimum of the group.

    Formula: `ln(x − min + 1)`, min over the group.
    When: gradient scales differ more than 1000 times between layers.
    Notes: Scores far below 1 (a Taylor score per parameter may be 1e-9) stay nearly linear: only the minimum is
        subtracted. Use `minmax` or `zscore` to give all layers the same weight.
    """

    def __call__(self, job: NormalizeJob) -> Scores:
        x, group = job.scores.score, self.params.groups(job.scores)
        return job.scores.with_score(np.log1p(x - _minimum(x, group)[group]))


def _minimum(x: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The lowest of each group. [groups]."""
    result = np.full(group.max() + 1, np.inf)
    np.minimum.at(result, group, x)
    return result


class MinMax(Normalizer[LevelParams]):
    """Maps the scores of each group to 0..1.

    Formula: `(x − min) / (max − min)`, over the group; 0 if all its scores are equal.
    When: gradient scales differ 100 to 1000 times between layers.
    """

    def __call__(self, job: NormalizeJob) -> Scores:
        x, group = job.scores.score, self.params.groups(job.scores)
        low, high = _minimum(x, group), -_minimum(-x, group)
        return job.scores.with_score((x - low[group]) / _not_zero(high - low)[group])


class ZScore(Normalizer[LevelParams]):
    """Standardises the scores of each group.

    Formula: `(x − mean) / deviation`, over the group; 0 if all its scores are equal. About half of the results are
        negative.
    When: units should compete by how far they stand out in their own layer.
    """

    def __call__(self, job: NormalizeJob) -> Scores:
        x, group = job.scores.score, self.params.groups(job.scores)
        units = np.maximum(np.bincount(group), 1)
        x = x - _minimum(x, group)[group]  # so that equal scores give exactly 0 below
        centred = x - (np.bincount(group, weights=x) / units)[group]
        deviation = np.sqrt(np.bincount(group, weights=centred**2) / units)
        return job.scores.with_score(centred / _not_zero(deviation)[group])


class Sqrt(Normalizer[LevelParams]):
    """Takes square roots of the scores.

    Formula: `√x`. A group with negative scores is first shifted so that its minimum is 0.
    When: gradient scales differ 100 to 1000 times between layers.
    """

    def __call__(self, job: NormalizeJob) -> Scores:
        x, group = job.scores.score, self.params.groups(job.scores)
        return job.scores.with_score(np.sqrt(x - np.minimum(_minimum(x, group), 0)[group]))


def _not_zero(scale: np.ndarray) -> np.ndarray:
    return np.where(scale > 0, scale, 1)


class ClipParams(Params):
    """Percentiles over all units of the model."""

    low: float = Field(5.0, ge=0, le=100, description="percentile, 0..100; lower scores are raised to it")
    high: float = Field(95.0, ge=0, le=100, description="percentile, 0..100; higher scores are lowered to it")

    @model_validator(mode="after")
    def _ordered(self) -> ClipParams:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        return self


class Clip(Normalizer[ClipParams]):
    """Limits the scores to the range between two percentiles.

    Formula: `min(max(x, P_low), P_high)`, P being percentiles over all units.
    When: a few units have extreme scores. Put it before another normalizer.
    """

    def __call__(self, job: NormalizeJob) -> Scores:
        x = job.scores.score
        low, high = np.percentile(x, [self.params.low, self.params.high])
        return job.scores.with_score(np.clip(x, low, high))
