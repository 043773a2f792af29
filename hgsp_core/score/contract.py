"""Importance of units and layers: jobs and contracts of scorers, priors and normalizers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hgsp_core.plugin.method import Implementation, P

if TYPE_CHECKING:
    from hgsp_core.artifacts import Priors, Scores, Statistics
    from hgsp_core.engine.collectors import Collector
    from hgsp_core.model.layout import Layout


@dataclass(frozen=True)
class ScoreJob:
    """What a scorer sees: shapes and the statistics of its declared collectors; never a model."""

    layout: Layout
    statistics: Statistics
    seed: int


@dataclass(frozen=True)
class PriorJob:
    """What a prior sees: shapes and the statistics of its declared collectors; never a model."""

    layout: Layout
    statistics: Statistics


@dataclass(frozen=True)
class NormalizeJob:
    """The scores after the previous stage."""

    layout: Layout
    scores: Scores


class Scorer(Implementation[P]):
    """Importance of units.

    collectors    the statistics to measure, which are in `job.statistics[collector]`
    in_nats       whether importances are nats per predicted token and add up to the predicted KL divergence of a plan
    only_experts  whether it scores only experts: a model without any is refused before anything is measured
    """

    kind: ClassVar[str] = "scorer"
    collectors: Sequence[Collector] = ()
    in_nats: bool = False
    only_experts: bool = False

    @abstractmethod
    def __call__(self, job: ScoreJob) -> Scores:
        """A score for each unit of each block (`Scores.of`); the lowest ones are removed first."""


class Prior(Implementation[P]):
    """Importance of layers and blocks. `collectors` as of a scorer."""

    kind: ClassVar[str] = "prior"
    collectors: Sequence[Collector] = ()

    @abstractmethod
    def __call__(self, job: PriorJob) -> Priors:
        """A number for each layer, and for each block if the method measures blocks."""


class Normalizer(Implementation[P]):
    """Balance of scores between layers; chained in the order of the recipe."""

    kind: ClassVar[str] = "normalizer"

    @abstractmethod
    def __call__(self, job: NormalizeJob) -> Scores:
        """The same units with other scores (`Scores.with_score`)."""
