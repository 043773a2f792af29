"""Normalizers bring the scores of layers, whose gradients differ by 1000 times and more, to one scale.

Each keeps the order of the units inside a block, and changes only the balance between blocks. With `level: layer` the
order inside a whole layer, attention against MLP, stays too.
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
    """x: the scores as they are."""

    def __call__(self, job: NormalizeJob) -> Scores:
        return job.scores


class Log(Normalizer[LevelParams]):
    """ln(x − min + 1), min over the group.

    The formula is R6's, to the letter. Scores far below 1 (a Taylor score per parameter may be 1e-9) stay nearly linear
    under it: only their minimum goes. Put `minmax` or `zscore` there where layers are to weigh the same.
    """

    def __call__(self, job: NormalizeJob) -> Scores:
        x, group = job.scores.score, self.params.groups(job.scores)
        return job.scores.with_score(np.log1p(x - _minimum(x, group)[group]))


def _minimum(x: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The lowest of each group. [groups]."""
    result = np.full(group.max() + 1, np.inf)
    np.minimum.at(result, group, x)
    return result


def _maximum(x: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The highest of each group. [groups]."""
    return -_minimum(-x, group)


class MinMax(Normalizer[LevelParams]):
    """(x − min) / (max − min), over the group; 0 where all of it is equal."""

    def __call__(self, job: NormalizeJob) -> Scores:
        x, group = job.scores.score, self.params.groups(job.scores)
        low, high = _minimum(x, group), _maximum(x, group)
        return job.scores.with_score((x - low[group]) / _not_zero(high - low)[group])


class ZScore(Normalizer[LevelParams]):
    """(x − mean) / standard deviation, over the group; 0 where all of it is equal. Half of the scores are below 0."""

    def __call__(self, job: NormalizeJob) -> Scores:
        x, group = job.scores.score, self.params.groups(job.scores)
        units = np.maximum(np.bincount(group), 1)
        x = x - _minimum(x, group)[group]  # so that equal scores give exactly 0 below
        centred = x - (np.bincount(group, weights=x) / units)[group]
        deviation = np.sqrt(np.bincount(group, weights=centred**2) / units)
        return job.scores.with_score(centred / _not_zero(deviation)[group])


class Sqrt(Normalizer[LevelParams]):
    """√x; a group with scores below 0 is shifted up to 0 first."""

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
    """min(max(x, P_low), P_high), percentiles over all units. Comes before the normalizer where both are used."""

    def __call__(self, job: NormalizeJob) -> Scores:
        x = job.scores.score
        low, high = np.percentile(x, [self.params.low, self.params.high])
        return job.scores.with_score(np.clip(x, low, high))
