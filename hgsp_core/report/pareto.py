"""What a smaller model costs in perplexity: the runs of each original as dots, and the line of those that no other one beats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hgsp_core.report.chart import Chart, Mark, Scale, Series, colour
from hgsp_core.report.contract import Side
from hgsp_core.report.runs import Comparison, Run
from hgsp_core.report.tables import count, metric_value


@dataclass(frozen=True)
class Cost:
    """What the plots have on their x axis. `of` gives its value for a run's model (None: not measured)."""

    name: str
    title: str
    show: Callable[[float], str]
    of: Callable[[Run, Side], float | None]


def costs_of(comparison: Comparison) -> list[Cost]:
    """The costs that the runs can be plotted by: always parameters and the time to prune, generation where it was measured."""
    batch = next((name for run in comparison.runs for name in _decode(run, "after")), "")
    costs = [
        Cost("parameters", "parameters", count, lambda run, side: run.report[side]["parameters"]),
        Cost("decode", f"ms per generated token, {batch}", lambda s: f"{1000 * s:.3g}", lambda run, side: _decode(run, side).get(batch)),
        Cost("time", "seconds to prune", "{:.3g}".format, lambda run, side: run.seconds if side == "after" else None),
    ]  # fmt: skip
    return [cost for cost in costs if any(cost.of(run, "after") is not None for run in comparison.runs)]


def _decode(run: Run, side: Side) -> Mapping[str, float]:
    """Seconds per token by batch."""
    return run.report[side].get("decode_seconds_per_token", {})


def pareto_charts(comparison: Comparison, cost: Cost) -> list[Chart]:
    """One for each original that has a run with both numbers."""
    return [chart for runs in comparison.models.values() for chart in _charts(runs, comparison, cost)]


def _charts(runs: Sequence[Run], comparison: Comparison, cost: Cost) -> Iterator[Chart]:
    def place(run: Run, side: Side) -> tuple[float, float] | None:
        x, y = cost.of(run, side), comparison.perplexity(run, side)
        return None if x is None or y is None or not math.isfinite(y) else (x, y)

    def mark(name: str, x: float, y: float) -> Mark:
        return Mark(x, y, f"{name}: {cost.show(x)}, perplexity {metric_value(y)}")

    dots = [(*found, run) for run in runs if (found := place(run, "after"))]
    if not dots:
        return
    methods = dict.fromkeys(run.method for run in comparison.runs)
    series = [
        Series(method, [mark(run.name, x, y) for x, y, run in dots if run.method == method], colour(i))
        for i, method in enumerate(methods)
    ]
    if dense := place(runs[0], "before"):
        series.append(Series("dense", [mark("dense", *dense)], 0))
    marks, best = [m for one in series for m in one.marks], front([(x, y, run.name) for x, y, run in dots])
    title = f"{runs[0].model}: {cost.title} and perplexity of its runs"
    yield Chart(
        title,
        "dots",
        Scale.over((m.x for m in marks), cost.title, cost.show),
        Scale.over((m.y for m in marks), f"perplexity, {comparison.datasets[0]}"),
        series,
        f"{runs[0].model}. Not beaten in both: {', '.join(name for _, _, name in best)}.",
        [(x, y) for x, y, _ in best],
        220,
    )


def front(dots: Sequence[tuple[float, float, str]]) -> tuple[tuple[float, float, str], ...]:
    """The dots that no other one equals or beats in both numbers, by rising cost."""
    best = math.inf
    chosen: list[tuple[float, float, str]] = []
    for dot in sorted(dots):
        if dot[1] < best:
            best = dot[1]
            chosen.append(dot)
    return tuple(chosen)
