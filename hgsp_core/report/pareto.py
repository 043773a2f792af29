"""What a smaller model costs in perplexity: the runs of each original as dots, and the line of those that no other one beats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hgsp_core.report.contract import Side
from hgsp_core.report.picture import COLOURS, shown
from hgsp_core.report.runs import Comparison, Run
from hgsp_core.report.tables import count


@dataclass(frozen=True)
class Cost:
    """An axis of the plots. `of` gives a run's value (None: not measured), `dense` that of the original."""

    name: str
    title: str
    show: Callable[[float], str]
    of: Callable[[Run], float | None]
    dense: Callable[[Run], float | None]


def costs_of(comparison: Comparison) -> list[Cost]:
    """The costs that the runs can be plotted by: always parameters and the time to prune, generation where it was measured."""
    batch = next(
        (batch for run in comparison.runs for batch in run.report["after"].get("decode_seconds_per_token", ())), ""
    )

    def decode(side: Side) -> Callable[[Run], float | None]:
        return lambda run: run.report[side].get("decode_seconds_per_token", {}).get(batch)

    costs = [
        Cost("parameters", "parameters", count, lambda run: run.report["after"]["parameters"],
             lambda run: run.report["before"]["parameters"]),
        Cost("decode", f"ms per generated token, {batch}", lambda s: f"{1000 * s:.3g}", decode("after"), decode("before")),
        Cost("time", "seconds to prune", lambda s: f"{s:.3g}", lambda run: run.seconds,
             lambda run: None),
    ]  # fmt: skip
    return [cost for cost in costs if any(cost.of(run) is not None for run in comparison.runs)]


@dataclass(frozen=True)
class Cloud:
    """The runs of one original by one cost. Dots are (cost, perplexity, run), by method."""

    model: str
    cost: Cost
    dots: dict[str, list[tuple[float, float, str]]]
    dense: tuple[float, float] | None
    front: tuple[tuple[float, float, str], ...]


def clouds(comparison: Comparison, cost: Cost) -> Iterator[Cloud]:
    """One for each original of which any run has both numbers."""
    for runs in comparison.models.values():
        dots: dict[str, list[tuple[float, float, str]]] = {}
        for run in runs:
            x, y = cost.of(run), comparison.perplexity(run)
            if x is not None and y is not None and math.isfinite(y):
                dots.setdefault(run.method, []).append((x, y, run.name))
        if dots:
            x, y = cost.dense(runs[0]), comparison.perplexity(runs[0], "before")
            dense = None if x is None or y is None else (x, y)
            yield Cloud(runs[0].model, cost, dots, dense, front([dot for some in dots.values() for dot in some]))


def front(dots: Sequence[tuple[float, float, str]]) -> tuple[tuple[float, float, str], ...]:
    """The dots that no other one equals or beats in both numbers, by rising cost."""
    best = math.inf
    chosen: list[tuple[float, float, str]] = []
    for dot in sorted(dots):
        if dot[1] < best:
            best = dot[1]
            chosen.append(dot)
    return tuple(chosen)


def draw_pareto(path: Path, comparison: Comparison, cost: Cost) -> None:
    """A PNG with one panel an original; nothing is written where no run has both numbers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    panels = list(clouds(comparison, cost))
    if not panels:
        return
    figure = Figure(figsize=(6.4 * len(panels), 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    methods = list(dict.fromkeys(method for cloud in panels for method in cloud.dots))
    for panel, cloud in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel.plot(
            [x for x, _, _ in cloud.front], [y for _, y, _ in cloud.front], color="#222222", linestyle="--", linewidth=1
        )
        for method, dots in cloud.dots.items():
            colour, marker = (
                COLOURS[methods.index(method) % len(COLOURS)],
                "os^Dv"[methods.index(method) // len(COLOURS) % 5],
            )
            panel.scatter(
                [x for x, _, _ in dots], [y for _, y, _ in dots], s=22, color=colour, marker=marker, label=shown(method)
            )
        if cloud.dense:
            panel.scatter(*cloud.dense, s=70, color="#222222", marker="*", label="dense")
        highest, lowest = (f(y for dots in cloud.dots.values() for _, y, _ in dots) for f in (max, min))
        panel.set_yscale("log" if highest > 50 * lowest else "linear")
        panel.set_title(shown(cloud.model), fontsize=11, fontweight="bold")
        panel.set_xlabel(cost.title, fontsize=9)
        panel.set_ylabel(f"perplexity, {shown(comparison.datasets[0])}", fontsize=9)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: cost.show(value)))
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=8, frameon=False)
    figure.savefig(path)
