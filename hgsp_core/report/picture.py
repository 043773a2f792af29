"""layers.png: what stays of each layer, one panel a kind of block."""

from __future__ import annotations

from pathlib import Path

from hgsp_core.artifacts import Plan
from hgsp_core.layout import Layout

#: Okabe and Ito's palette, told apart with any colour vision and in grey
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
_GONE = "#E4E4E4"
_LABEL = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}

#: models of at most so many layers have room for the counts in the bars
_COUNTED = 12


def draw_layers(path: Path, layout: Layout, plan: Plan, title: str) -> None:
    """Bars of the kept share over a grey whole; removed blocks are crossed out. Counts stand in them where they fit."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes = layout.architecture.axes
    layers = range(len(layout.layers))
    width = min(16.0, max(6.4, 1.5 + 0.34 * len(layers)))
    figure = Figure(figsize=(width, 1.2 + 2.0 * len(axes)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    panels = figure.subplots(len(axes), 1, sharex=True, squeeze=False)[:, 0]
    for panel, axis, colour in zip(panels, axes, _COLOURS * len(axes)):
        blocks = [plan.layers[i][axis.name] for i in layers]
        shares = [len(b.kept) / b.of for b in blocks]
        panel.bar(layers, 1, color=_GONE, width=0.8)
        panel.bar(layers, shares, color=colour, width=0.8)
        for i, b in enumerate(blocks):
            if not b.kept:
                panel.text(i, 0.5, "×", ha="center", va="center", fontsize=11, color="#222222")
            elif len(layers) <= _COUNTED:
                panel.text(i, 0.03, f"{len(b.kept)}/{b.of}", ha="center", va="bottom", fontsize=8, bbox=_LABEL)
        kept, of = sum(len(b.kept) for b in blocks), sum(b.of for b in blocks)
        panel.axhline(kept / of, color="#222222", linewidth=1, linestyle="--")
        panel.set_title(
            f"{axis.name}: {kept:,} of {of:,} units stay ({kept / of:.1%}, dashed)", loc="left", fontsize=10
        )
        panel.set_ylabel("share kept", fontsize=9)
        panel.set_ylim(0, 1)
        panel.set_yticks((0, 0.25, 0.5, 0.75, 1), ("0%", "25%", "50%", "75%", "100%"), fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    step = 1 + (len(layers) - 1) // 48  # more labels than that run into each other
    panels[-1].set_xticks(layers[::step], [str(i) for i in layers[::step]], fontsize=8)
    panels[-1].set_xlim(-0.6, len(layers) - 0.4)
    panels[-1].set_xlabel("layer   (grey: removed, ×: block removed whole)", fontsize=9)
    figure.savefig(path)
