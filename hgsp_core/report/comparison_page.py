"""The comparison as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from markupsafe import Markup

from hgsp_core.report.comparison import RunTable, best_table, legend
from hgsp_core.report.page import Section, bullets, card, figure, join, page, table
from hgsp_core.report.pareto import Cloud, clouds, costs_of
from hgsp_core.report.runs import Comparison
from hgsp_core.report.svg import legend as colours
from hgsp_core.report.svg import points
from hgsp_core.report.tables import metric_value


def comparison_page(title: str, comparison: Comparison, runs: RunTable, failed: Mapping[str, str]) -> str:
    """The whole document.

    Args:
        failed: run -> why it has no result, of a sweep.
    """
    models = list(dict.fromkeys(run.model for run in comparison.runs))
    lead = f"{len(comparison.runs)} runs of {', '.join(models)}. Perplexities are to be read against the dense row of the same model."
    return page(title, lead, list(_sections(comparison, runs, failed)))


def _sections(comparison: Comparison, runs: RunTable, failed: Mapping[str, str]) -> Iterator[Section]:
    if failed:
        yield Section("Failed", join(card(name, "bad", bullets([message])) for name, message in failed.items()),
                      "These runs have no result; the same command tries them again.")  # fmt: skip
    if comparison.warnings:
        yield Section("Compare with care", card("Not all numbers are comparable", "warn", bullets(comparison.warnings)))
    header, best = best_table(comparison)
    if best:
        yield Section("Best of each budget", table(_run_first(header), [_run_first(row) for row in best], "Least perplexity"),
                      "Among the runs of a model that removed at least 97 % of what was asked for.")  # fmt: skip
    drawings = (
        [_drawing(cloud, comparison) for cost in costs_of(comparison) for cloud in clouds(comparison, cost)]
        if best
        else []
    )
    if drawings:
        yield Section(
            "Size and time against perplexity",
            join(drawings),
            "Each dot is a run; no run is below and left of the line.",
        )
    columns, cells = runs.shown()
    notes = [*runs.footnotes(), *legend(comparison)]
    all_runs = table([column.title for column in columns], cells, "Under each original its runs")
    yield Section("All runs", join([all_runs, bullets(notes)] if notes else [all_runs]))


def _run_first(cells: tuple[str, ...]) -> tuple[str, ...]:
    """The first column of a page's table names its rows: the run, then model and budget."""
    model, budget, run, *rest = cells
    return (run, model, budget, *rest)


def _drawing(cloud: Cloud, comparison: Comparison) -> Markup:
    cost, dataset = cloud.cost, comparison.datasets[0]

    def title(x: float, y: float, run: str) -> str:
        return f"{run}: {cost.show(x)}, perplexity {metric_value(y)}"

    series = {method: [(x, y, title(x, y, run)) for x, y, run in dots] for method, dots in cloud.dots.items()}
    if cloud.dense and all(map(math.isfinite, cloud.dense)):
        series["dense"] = [(*cloud.dense, title(*cloud.dense, "dense"))]
    drawing = points(
        f"{cloud.model}: {cost.title} and perplexity of its runs",
        series,
        x_label=cost.title,
        y_label=f"perplexity, {dataset}",
        show_x=cost.show,
        path=[(x, y) for x, y, _ in cloud.front],
    )
    unbeaten = ", ".join(run for _, _, run in cloud.front)
    return figure(drawing, f"{cloud.model}. Not beaten in both: {unbeaten}.", colours(series))
