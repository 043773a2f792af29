"""The importance of every unit as one small picture an axis, whatever the size of the model."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np

from hgsp_core.report.facts import RunFacts

#: columns of the picture; a block of more units is averaged into so many
COLUMNS = 96
#: colours span at most so many powers of ten below the largest value
_DECADES = 4.0
_COLOURS = "viridis"


@dataclass(frozen=True)
class Heat:
    """One axis; NaN where a layer has no such block.

    `values` [layers, columns]: importance per parameter; a layer's removed units come first, then the kept ones, each
    lowest first. `removed` [layers]: share of the units that is removed.
    """

    values: np.ndarray
    removed: np.ndarray

    @classmethod
    def of(cls, facts: RunFacts, axis: str) -> Heat:
        scores = facts.scores
        rows: list[np.ndarray] = []
        removed: list[float] = []
        worth = scores.importance / scores.cost
        for layer in range(len(facts.layers)):
            own = scores.units_of(layer, axis)
            own = own[np.lexsort((worth[own], scores.score[own], facts.kept[own]))]
            rows.append(_binned(worth[own]))
            removed.append(1 - facts.kept[own].mean() if len(own) else 0.0)
        return cls(np.array(rows), np.array(removed))


def _binned(values: np.ndarray) -> np.ndarray:
    """Means of consecutive values, [COLUMNS]; fewer values than that are drawn broader."""
    count = len(values)
    if not count:
        return np.full(COLUMNS, np.nan)
    starts = np.arange(COLUMNS) * count // COLUMNS
    if count <= COLUMNS:
        return values[starts]
    return np.add.reduceat(values, starts) / np.diff([*starts, count])


def bounds(heats: list[Heat]) -> tuple[float, float]:
    """Smallest and largest value that has a colour of its own."""
    values = np.concatenate([heat.values.ravel() for heat in heats])
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
