"""The pictures of a run as PNG: what stays of each layer, and curves over the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hgsp_core.report.facts import RunFacts
from hgsp_core.report.scale import Scale, every

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's palette, told apart with any colour vision and in grey, and two more
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#6A5ACD", "#8A6D3B")
_GONE = "#E4E4E4"
_LABEL = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}

#: models of at most so many layers have room for the counts in the bars
_COUNTED = 12


def draw_layers(path: Path, facts: RunFacts) -> None:
    """Bars of the parameters kept over a grey whole, a panel a kind of block; removed blocks are crossed out."""
    axes, layers = facts.axes, range(len(facts.layers))
    figure = _figure(len(layers), 1.2 + 2.0 * len(axes))
    total, of_layers = facts.removed
    title = f"{shown(facts.model)}: {total:.1%} of the parameters removed ({of_layers:.1%} of the layers')"
    figure.suptitle(title, fontsize=11, fontweight="bold")
    panels = figure.subplots(len(axes), 1, sharex=True, squeeze=False)[:, 0]
    for panel, axis, colour in zip(panels, axes, COLOURS * len(axes), strict=False):
        blocks = {layer.index: layer.blocks[axis] for layer in facts.layers if axis in layer.blocks}
        panel.bar(list(blocks), 1, color=_GONE, width=0.8)
        panel.bar(list(blocks), [b.share for b in blocks.values()], color=colour, width=0.8)
        for i, b in blocks.items():
            if not b.kept:
                panel.text(i, 0.5, "×", ha="center", va="center", fontsize=11, color="#222222")
            elif len(layers) <= _COUNTED:
                panel.text(i, 0.03, f"{b.kept}/{b.of}", ha="center", va="bottom", fontsize=8, bbox=_LABEL)
        kept, of = sum(b.kept for b in blocks.values()), sum(b.of for b in blocks.values())
        share = sum(b.after for b in blocks.values()) / sum(b.before for b in blocks.values())
        panel.axhline(share, color="#222222", linewidth=1, linestyle="--")
        text = f"{axis}: {kept:,} of {of:,} units kept, {share:.1%} of the parameters (dashed)"
        panel.set_title(text, loc="left", fontsize=10)
        panel.set_ylabel("share kept", fontsize=9)
        panel.set_ylim(0, 1)
        panel.set_yticks((0, 0.25, 0.5, 0.75, 1), ("0%", "25%", "50%", "75%", "100%"), fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    _label_layers(panels[-1], len(layers), "layer   (grey: removed, ×: block removed entirely)")
    figure.savefig(path)


def draw_curves(path: Path, series: Mapping[str, Sequence[float]], title: str, what: str) -> None:
    """One value a layer and series, in powers of ten where the values differ much."""
    layers = max(map(len, series.values()), default=0)
    figure = _figure(layers, 3.4)
    figure.suptitle(shown(title), fontsize=11, fontweight="bold")
    panel = figure.subplots()
    for colour, (name, values) in zip(COLOURS * len(series), series.items(), strict=False):
        panel.plot(range(len(values)), values, "o-", markersize=4, linewidth=1.2, color=colour, label=shown(name))
    scale = Scale.over(value for values in series.values() for value in values if value > 0)
    panel.set_yscale("log" if scale.log else "linear")
    panel.set_ylabel(shown(what), fontsize=9)
    panel.tick_params(labelsize=8)
    panel.grid(axis="y", color=_GONE)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _label_layers(panel, layers, "layer")
    figure.savefig(path)


def shown(name: str) -> str:
    """A name in a picture as it is: matplotlib takes what stands between dollars for mathematics."""
    return name.replace("$", r"\$")


def _figure(layers: int, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(16.0, max(6.4, 1.5 + 0.34 * layers)), height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _label_layers(panel: Axes, layers: int, text: str) -> None:
    labelled = range(0, layers, every(layers, 48))  # more labels than that run into each other
    panel.set_xticks(labelled, [str(i) for i in labelled], fontsize=8)
    panel.set_xlim(-0.6, layers - 0.4)
    panel.set_xlabel(text, fontsize=9)
