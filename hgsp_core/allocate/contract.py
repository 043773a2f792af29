"""Which units stay: what an allocator is given and gives."""

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

    priors    None where the allocator's `needs_priors` is False
    progress  (done, total) may be called
    before    what the step before of `iterative_steps` left: what it removed has to go again. Its units have the least
              scores, so an allocator that goes by these need not look
    """

    layout: Layout
    scores: Scores
    priors: Priors | None
    progress: Callable[[int, int], None] = field(default=lambda done, total: None)
    before: Plan | None = None


class Allocator(Implementation[P]):
    """Which units are kept.

    needs_priors     whether priors are to be computed at all
    compares_layers  whether scores must be comparable between layers: the user is told of scores that may not be
    """

    kind: ClassVar[str] = "allocator"
    needs_priors: bool = False
    compares_layers: bool = False

    def scores(self, job: AllocateJob) -> Scores:
        """The scores that a plan is to remove least of; an allocator that changes those of the job, as a gate does, says so here."""
        return job.scores

    def check(self, layout: Layout) -> None:
        """Before anything is measured: raises HgspError where the parameters do not fit the model."""

    @abstractmethod
    def __call__(self, job: AllocateJob) -> Plan:
        """A plan within the budget (`Plan.of`)."""
