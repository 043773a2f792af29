"""A third party's exporter: the sizes, without weights. It knows nothing of records and checks."""

from hgsp_core import Exporter, Method, hookimpl


class PlanOnly(Exporter):
    def __call__(self, job):
        path = job.destination / "sizes.txt"
        path.write_text(
            "\n".join(str({axis: len(block.kept) for axis, block in layer.items()}) for layer in job.plan.layers)
        )
        return path


@hookimpl
def hgsp_exporters():
    return [Method("plan-only", "hgsp_plan_only:PlanOnly", summary="the sizes, without weights")]
