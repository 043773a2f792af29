"""Importance of units and layers: what scorers, priors and normalizers are given and give."""

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
    """What a prior sees; the same as a scorer, and it returns one number per layer and per block."""

    layout: Layout
    statistics: Statistics


@dataclass(frozen=True)
class NormalizeJob:
    """The scores as the stage before left them."""

    layout: Layout
    scores: Scores


class Scorer(Implementation[P]):
    """Importance of units.

    collectors   the statistics to measure: `job.statistics[collector]` has them
    in_nats      whether importances are nats per predicted token and add up: what a plan removes predicts its KL divergence
    only_experts whether it scores nothing but experts: a model without any is refused before anything is measured
    """

    kind: ClassVar[str] = "scorer"
    collectors: Sequence[Collector] = ()
    in_nats: bool = False
    only_experts: bool = False

    @abstractmethod
    def __call__(self, job: ScoreJob) -> Scores:
        """A score for each unit of each block (`Scores.of`); the least ones are removed first."""


class Prior(Implementation[P]):
    """Importance of layers and blocks. `collectors` as of a scorer."""

    kind: ClassVar[str] = "prior"
    collectors: Sequence[Collector] = ()

    @abstractmethod
    def __call__(self, job: PriorJob) -> Priors:
        """A number for each layer, and for each block where the method tells blocks apart."""


class Normalizer(Implementation[P]):
    """Balance of scores between layers; chained in the order of the recipe."""

    kind: ClassVar[str] = "normalizer"

    @abstractmethod
    def __call__(self, job: NormalizeJob) -> Scores:
        """The same units with other scores (`Scores.with_score`)."""
