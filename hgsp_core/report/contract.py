"""The contents of a run's JSON files, as they are written. What is read from disk is checked first (`files/forms.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from hgsp_core.artifacts.calibration import Calibrated

#: which of the two models something is about
Side = Literal["before", "after"]
#: a metric of this ending says how another one was measured, and is no number
PROTOCOL = "_protocol"


class Pruned(TypedDict):
    """What a run knows once the pruned model is there. `before` and `after` are costs and metrics by name.

    `predicted_kl`: between both models, in nats per token, as the scores of what was removed predict it, before repair
    of the readers and recovery; None where the scorer's scores are no nats.
    """

    recipe: Mapping[str, Any]
    calibration: Calibrated | None
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    recovery: Mapping[str, Any] | None
    predicted_kl: float | None
    reused_seconds: float
    reused: list[str]


class Report(Pruned):
    """report.json."""

    notes: list[str]
    exports: list[str]
    timings: dict[str, float]
    peak_memory_bytes: int
    versions: dict[str, str]


class Check(TypedDict):
    """What a healthy run looks like, and whether this one does. In a file, infinity is text."""

    check: str
    unit: str
    value: float | str
    limit: float
    ok: bool


class Repaired(TypedDict):
    """What a repair leads to."""

    num_extreme_layers: int
    layers_2_to_4_lose_at_most: float
    spread: float


class SuggestedRepair(TypedDict):
    """Lines for the recipe. `repairs`: they repair the finding entirely; `then`: what they led to."""

    set: list[str]
    recipe: str
    repairs: bool
    then: Repaired


class Finding(TypedDict):
    """Something that is wrong with a run."""

    kind: str
    severity: str
    layers: list[int]
    title: str
    text: str
    repair: SuggestedRepair | None


class LayerScale(TypedDict):
    """Sizes of a layer's gradients or scores, and the removed share of its parameters."""

    layer: int
    mean: float
    std: float
    norm: float
    max: float
    min: float
    removed: float


class Diagnosis(TypedDict):
    """gradient_diagnosis.json."""

    source: str
    what: str
    mean_ratio: float
    norm_ratio: float
    extreme_layers: list[int]
    num_extreme_layers: int
    spread: float
    checks: list[Check]
    findings: list[Finding]
    layers: list[LayerScale]
