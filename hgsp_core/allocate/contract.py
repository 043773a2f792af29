"""Which units are kept: the job and the contract of allocators."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from hgsp_core.plugin.method import Implementation, P

if TYPE_CHECKING:
    from hgsp_core.artifacts import Plan, Priors, Scores
    from hgsp_core.model.layout import Layout


@dataclass(frozen=True)
class AllocateJob:
    """Everything an allocation may depend on.

    priors    None if the allocator's `needs_priors` is False
    progress  may be called with (done, total)
    before    plan of the previous step of `iterative_steps`: what it removed must be removed again. Those units have the
              lowest scores, so an allocator that removes the lowest scores need not read it
    """

    layout: Layout
    scores: Scores
    priors: Priors | None
    progress: Callable[[int, int], None] = field(default=lambda done, total: None)
    before: Plan | None = None


class Allocator(Implementation[P]):
    """Which units are kept.

    needs_priors     whether priors are computed
    compares_layers  whether scores must be comparable between layers; if they may not be, the user gets a note
    """

    kind: ClassVar[str] = "allocator"
    needs_priors: bool = False
    compares_layers: bool = False

    def scores(self, job: AllocateJob) -> Scores:
        """The scores whose removed sum should be small: those of the job, unless the allocator changes them, as a gate does."""
        return job.scores

    def check(self, layout: Layout) -> None:
        """Before anything is measured: raises HgspError where the parameters do not fit the model."""

    @abstractmethod
    def __call__(self, job: AllocateJob) -> Plan:
        """A plan within the budget (`Plan.of`)."""
