"""The importance of every unit as one small picture an axis, whatever the size of the model."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np

from hgsp_core.report.chart import Mark, Scale
from hgsp_core.report.facts import RunFacts

#: columns of the picture; larger blocks are averaged
COLUMNS = 96
#: powers of ten below the largest value that colours span
_DECADES = 4.0
_COLOURS = "viridis"


@dataclass(frozen=True)
class HeatMap:
    """A chart (see `chart.Chart`) of one row a layer; image: PNG; cuts: marks, each across the row of its layer."""

    title: str
    x: Scale
    y: Scale
    image: bytes
    cuts: list[Mark]
    caption: str
    height: int
    named: tuple[()] = ()


def heat_maps(run: RunFacts) -> tuple[float, float, list[HeatMap]]:
    """One an axis, and the values of the darkest and the brightest colour, which they share."""
    found, count = {axis: measured(run, axis) for axis in run.axes}, len(run.layers)
    low, high = bounds([values for values, _ in found.values()])
    x, y, height = Scale(0, 1, "units", "{:.0%}".format), Scale.layers(count, down=True), max(110, min(440, 18 * count))
    maps = []
    for axis, (values, removed) in found.items():
        cuts = [Mark(r, i, f"layer {i}: {r:.1%} of the units removed") for i, r in enumerate(removed.tolist()) if r]
        caption = (
            f"{axis}: one row per layer, least important units on the left. "
            "The units left of the white line were removed, or the same number of others if the repair reselected them."
        )
        title = f"importance of the {axis} units, one row per layer"
        maps.append(HeatMap(title, x, y, picture(values, low, high), cuts, caption, height))
    return low, high, maps


def measured(run: RunFacts, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Importance per parameter [layers, columns], NaN where a layer has no such block, and the removed share [layers].

    A layer's removed units come first, then the kept ones, each lowest first.
    """
    scores, rows, removed = run.scores, [], []
    worth = scores.importance / scores.cost
    for layer in range(len(run.layers)):
        own = scores.units_of(layer, axis)
        own = own[np.lexsort((worth[own], scores.score[own], run.kept[own]))]
        rows.append(_binned(worth[own]))
        removed.append(1 - run.kept[own].mean() if len(own) else 0.0)
    return np.array(rows), np.array(removed)


def _binned(values: np.ndarray) -> np.ndarray:
    """Means of consecutive values, [COLUMNS]; fewer values than that are drawn broader."""
    count = len(values)
    if not count:
        return np.full(COLUMNS, np.nan)
    starts = np.arange(COLUMNS) * count // COLUMNS
    if count <= COLUMNS:
        return values[starts]
    return np.add.reduceat(values, starts) / np.diff([*starts, count])


def bounds(found: list[np.ndarray]) -> tuple[float, float]:
    """Smallest and largest value that has a colour of its own."""
    values = np.concatenate([values.ravel() for values in found])
    high = float(np.nanmax(values, initial=0.0))
    positive = values[np.isfinite(values) & (values > high * 10**-_DECADES)]
    return (float(positive.min()), high) if len(positive) else (1.0, 1.0)


def picture(values: np.ndarray, low: float, high: float) -> bytes:
    """PNG of `values` [rows, columns], coloured by their logarithm; NaN is transparent."""
    from matplotlib import colormaps
    from matplotlib.image import imsave

    with np.errstate(divide="ignore", invalid="ignore"):
        place = (np.log(np.maximum(values, low)) - np.log(low)) / (np.log(high / low) or 1.0)
    rgba = colormaps[_COLOURS](place, bytes=True)
    rgba[np.isnan(values)] = 0
    file = BytesIO()
    imsave(file, rgba, format="png", metadata={"Software": None})  # type: ignore[dict-item]  # None leaves it out
    return file.getvalue()


def key() -> bytes:
    """PNG of all colours, lowest first."""
    return picture(np.exp(np.linspace(0, 1, 64))[None], 1.0, float(np.e))
