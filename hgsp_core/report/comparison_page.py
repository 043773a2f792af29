"""The comparison as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping

from hgsp_core.report.comparison import RunTable, best_table, legend
from hgsp_core.report.pareto import costs_of, pareto_charts
from hgsp_core.report.render import render
from hgsp_core.report.runs import Comparison


def comparison_page(title: str, comparison: Comparison, runs: RunTable, failed: Mapping[str, str]) -> str:
    """The HTML document.

    Args:
        failed: run -> why it has no result, of a sweep.
    """
    columns, cells = runs.shown()
    header, best = best_table(comparison)
    return render(
        "hgsp_core.report",
        "comparison.html",
        title=title,
        runs=comparison.runs,
        failed=failed,
        warnings=comparison.warnings,
        best_header=_run_first(header),
        best=[_run_first(row) for row in best],
        charts=[chart for cost in costs_of(comparison) for chart in pareto_charts(comparison, cost)] if best else [],
        header=[column.title for column in columns],
        cells=cells,
        notes=[*runs.footnotes(), *legend(comparison)],
    )


def _run_first(cells: tuple[str, ...]) -> tuple[str, ...]:
    """The first column of a page's table names its rows: the run, then model and budget."""
    model, budget, run, *rest = cells
    return (run, model, budget, *rest)
