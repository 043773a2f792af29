"""A plan that was made before."""

from __future__ import annotations

from pydantic import Field

from hgsp_core.allocate.contract import AllocateJob, Allocator
from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.files.forms import PlanFile
from hgsp_core.files.paths import expanded
from hgsp_core.files.text import read_object
from hgsp_core.model.layout import Layout
from hgsp_core.plugin.method import Params


class PlanParams(Params):
    path: str = Field("plan.json", min_length=1, description="path of a plan.json, of a run or edited by hand")


class FromFile(Allocator[PlanParams]):
    """Applies a plan that was made before.

    Source: `plan.json` of a run, what `hgsp plan --json` has under `plan`, or a file made by hand.
    Cost: none.
    When: a plan was edited, or comes from somebody else.
    Notes: Scores are still measured: the report shows them, and with `curvature` the predicted KL divergence of the
        plan. `score: {use: magnitude}` measures nothing.
    """

    def __init__(self, params: PlanParams):
        super().__init__(params)
        self.path = expanded(params.path)
        try:
            self.content = read_object(self.path, PlanFile)
        except (OSError, ValueError) as error:
            raise PlanError.unreadable(self.path, str(error)) from None

    def check(self, layout: Layout) -> None:
        try:
            Plan.from_json(self.content, layout)
        except PlanError as error:
            raise PlanError.not_applied(self.path, error) from None
        except (LookupError, TypeError) as error:
            raise PlanError.unreadable(self.path, f"{type(error).__name__}: {error}") from None

    def __call__(self, job: AllocateJob) -> Plan:
        return Plan.from_json(self.content, job.layout)
