"""Which units stay: what an allocator is given and gives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from hgsp_core.plugin.method import Implementation, P

if TYPE_CHECKING:
    import numpy as np

    from hgsp_core.artifacts import Plan, Priors, Scores
    from hgsp_core.model.layout import Layout

#: windows that a judge needs in either half: a repair fits to all but one
LEAST_HALF = 2


class PlanJudge(Protocol):
    """How far a plan takes the model from the dense one."""

    def __call__(self, plan: Plan) -> float:
        """KL(dense ‖ plan) on the held-out windows, in nats a token."""

    def repaired(self, plan: Plan, half: int) -> np.ndarray:
        """The same for each window of one half (0 or 1) of the others. [windows].

        The plan is as the recipe's repair leaves it, fitted to the other half, at the cost of that repair.
        """


@dataclass(frozen=True)
class AllocateJob:
    """Everything an allocation may depend on.

    priors    None where the allocator's `needs_priors` is False
    judge     None unless the allocator's `held_out` asks for windows
    progress  (done, total) may be called
    before    what the step before of `iterative_steps` left: what it removed has to go again. Its units have the least
              scores, so an allocator that goes by these need not look
    """

    layout: Layout
    scores: Scores
    priors: Priors | None
    judge: PlanJudge | None = None
    progress: Callable[[int, int], None] = field(default=lambda done, total: None)
    before: Plan | None = None


class Allocator(Implementation[P]):
    """Which units are kept.

    needs_priors   whether priors are to be computed at all
    """

    kind: ClassVar[str] = "allocator"
    needs_priors: bool = False

    def held_out(self, layout: Layout, samples: int) -> int:
        """How many of the calibration windows are to judge plans (`job.judge`); 0 = the allocator judges none."""
        return 0

    @abstractmethod
    def __call__(self, job: AllocateJob) -> Plan:
        """A plan within the budget (`Plan.of`)."""
