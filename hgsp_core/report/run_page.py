"""report.html: one run on one page, for readers who did not make it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hgsp_core.report import heat
from hgsp_core.report.diagnosis import check_value, repair_options, repair_text
from hgsp_core.report.facts import RunFacts
from hgsp_core.report.render import render
from hgsp_core.report.run_charts import layer_charts, prior_chart, recovery_chart, scale_chart
from hgsp_core.report.tables import HEADER, headline, metric_value
from hgsp_core.report.texts import calibrated_on

#: measures that are shown large: of each the first that was taken
_LARGE = ("parameters", "MACs per token", "KV cache per token", "perplexity", "accuracy", "decode tokens")


def run_page(run: RunFacts) -> str:
    """The HTML document."""
    report, rows = run.report, headline(run.report)
    measured = [row for row in rows if row.change is not None]
    large = [next((row for row in measured if row.measure.startswith(name)), None) for name in _LARGE]
    layer_header, layer_cells = run.layer_table()
    low, high, heats = heat.heat_maps(run)
    losses, recovery = recovery_chart(run), dict(report["recovery"] or {})
    if losses:
        del recovery["held_out_loss"]
    timings = {**report["timings"], "together": sum(report["timings"].values())}
    return render(
        "hgsp_core.report",
        "run.html",
        title=run.title,
        run=run,
        removed=run.plan.removed(run.layout),
        header=HEADER,
        rows=rows,
        calibrated_on=calibrated_on(report),
        cells=[row.cells() for row in rows],
        large=[row for row in large if row],
        checks=[(check["check"], check_value(check)) for check in run.diagnosis["checks"]],
        repair_text=repair_text,
        repair_options=repair_options,
        layers=layer_charts(run),
        layer_header=layer_header,
        layer_cells=layer_cells,
        low=low,
        high=high,
        key=heat.key(),
        heats=heats,
        priors=prior_chart(run),
        scales=scale_chart(run),
        recovery=list(_flat(recovery)),
        losses=losses,
        calibration=list(_flat(report["calibration"] or {})),
        timings=[(stage, f"{seconds:.1f} s") for stage, seconds in timings.items()],
    )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(name, value) of everything in a nested result, names joined by commas."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{name}, {key}" if name else str(key).replace("_", " "))
    elif isinstance(value, float):
        yield name, metric_value(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, f"{value:,}"
    else:
        yield name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
