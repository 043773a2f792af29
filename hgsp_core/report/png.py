"""Charts as one PNG file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from hgsp_core.report.chart import COLOURS, Chart

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_STYLE = {"text.parse_math": False, "font.size": 9, "xtick.labelsize": 8, "ytick.labelsize": 8, "lines.linewidth": 1.2,
          "figure.titlesize": 11, "figure.titleweight": "bold", "axes.titlesize": 10, "axes.titlelocation": "left",
          "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.grid": True, "axes.grid.axis": "y",
          "legend.frameon": False}  # fmt: skip
_NOTE = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
#: most bars that have room for notes
_NOTED = 12
#: of dots whose colours begin again
_MARKERS = "os^Dv"


def write_png(path: Path, charts: Sequence[Chart], heading: str = "") -> None:
    """The charts below each other, with one legend."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    css = (files(__package__) / "templates" / "page.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--(\w+): (#\w+)", css.partition("@media")[0]))
    width = min(16.0, max(6.4, 1.5 + 0.34 * max(len(series.marks) for chart in charts for series in chart.series)))
    with rc_context({**_STYLE, "grid.color": colours["gone"]}):
        figure = Figure(figsize=(width, 1 + sum(chart.height for chart in charts) / 60), dpi=150, layout="constrained")
        figure.suptitle(fill(heading, int(11 * width)))
        legend: dict[str, Artist] = {}
        for panel, chart in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
            _draw(panel, chart, colours)
            panel.set_title(fill(chart.title, int(11 * width)))
            legend |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        if legend:
            figure.legend(legend.values(), legend, loc="outside lower left", ncols=2)
        figure.savefig(path)


def _draw(panel: Axes, chart: Chart, colours: Mapping[str, str]) -> None:
    x, y = chart.x, chart.y
    panel.set(xlabel=x.title, ylabel=y.title)
    panel.set(xscale="log" if x.log else "linear", yscale="log" if y.log else "linear")
    for axis, scale in ((panel.xaxis, x), (panel.yaxis, y)):
        ticks = scale.ticks(48)
        axis.set_ticks(ticks, [scale.show(value) for value in ticks])
    panel.set(xlim=(x.low, x.high), ylim=(y.low, y.high))
    panel.minorticks_off()
    for i, series in enumerate(chart.series):
        marks, colour = series.marks, colours[f"c{series.colour}"]
        left, up = [mark.x for mark in marks], [mark.y for mark in marks]
        if chart.kind == "shares":
            panel.bar(left, y.high, 0.8, color=colours["gone"])
            panel.bar(left, up, 0.8, color=colour)
            for mark in marks:
                if not mark.y:
                    panel.text(mark.x, 0.5, "×", ha="center", va="center", fontsize=11)
                elif len(marks) <= _NOTED:
                    panel.text(mark.x, 0.03, mark.note, ha="center", fontsize=8, bbox=_NOTE)
        else:
            line = "solid" if chart.kind == "curves" else "none"
            marker, size = (_MARKERS[i // COLOURS % len(_MARKERS)], 5) if series.colour else ("*", 9)
            style: dict[str, Any] = {"markersize": size, "linestyle": line, "color": colour, "label": series.name}
            panel.plot(left, up, marker, clip_on=False, **style)
    if chart.dashed:
        panel.plot(*zip(*chart.dashed, strict=True), "--", color=colours["c0"], linewidth=1)
