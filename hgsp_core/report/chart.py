"""A chart as data: `templates/chart.html` draws it in a page and `png.py` as a file, with the same axes, labels and colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

#: an axis over a wider range than this counts in powers of ten
_WIDE = 50.0
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
#: colours of series, which `page.css` calls c1, c2, ...; c0 is the colour of the text
COLOURS = 6


def short(value: float) -> str:
    """A tick's label: 0.25, 20, 1e-06 as 10⁻⁶."""
    if value > 0 and (value < 1e-3 or value >= 1e5) and math.isclose(math.log10(value), round(math.log10(value))):
        return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{value:.4g}"


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, even or in powers of ten; `show` writes its labels. whole: counts from 0."""

    low: float
    high: float
    title: str = ""
    show: Callable[[float], str] = short
    log: bool = False
    whole: bool = False

    @classmethod
    def over(cls, values: Iterable[float], title: str = "", show: Callable[[float], str] = short) -> Scale:
        """An axis on which all values have a place, in powers of ten where they differ much and all are positive.

        NaN and infinities are left out.
        """
        finite = [float(v) for v in values if math.isfinite(v)]
        low, high = min(finite, default=0.0), max(finite, default=1.0)
        if low > 0 and high > _WIDE * low:
            return cls(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)), title, show, True)
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low - margin if low < 0 or low > margin else 0.0, high + margin, title, show)

    @classmethod
    def layers(cls, count: int, down: bool = False) -> Scale:
        """The layers of a model, each in the middle of a place of its own; down: the first one is at the top."""
        low, high = (count - 0.5, -0.5) if down else (-0.5, count - 0.5)
        return cls(low, high, "layer", "{:.0f}".format, whole=True)

    def place(self, value: float) -> float:
        """Per cent of the axis."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return 100 * min(max((value - low) / (high - low), 0.0), 1.0)

    def across(self, value: float) -> str:
        """Its place from the left or the bottom, as SVG writes it."""
        return f"{self.place(value):.3f}%"

    def down(self, value: float) -> str:
        """Its place from the top."""
        return f"{100 - self.place(value):.3f}%"

    def ticks(self, most: int = 16) -> list[float]:
        """About five round values; of counts all, or at most about `most` evenly spaced ones."""
        if self.log:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first) / 5)))]
        low, high = sorted((self.low, self.high))
        rough = max((high - low) / most, 1.0) if self.whole else (high - low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in _STEPS if s * power >= rough * (1 - 1e-9) and not (self.whole and s * power % 1))
        return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Mark:
    """A bar or a dot; `title` is its tooltip, `note` fits in a bar."""

    x: float
    y: float
    title: str
    note: str = ""


@dataclass(frozen=True)
class Series:
    """Marks of one colour; those that have a name are in the legend."""

    name: str
    marks: Sequence[Mark]
    colour: int


@dataclass(frozen=True)
class Chart:
    """A chart.

    title     what it shows, for those who do not see it and above it in a file
    kind      "shares": bars over a grey whole, crossed out where nothing is left; "curves": dots that lines join; "dots"
    caption   stands below it in a page; the title where there is none
    dashed    places (x, y) that a dashed line joins
    height    in pixels of a page
    """

    title: str
    kind: Literal["shares", "curves", "dots"]
    x: Scale
    y: Scale
    series: Sequence[Series]
    caption: str = ""
    dashed: Sequence[tuple[float, float]] = ()
    height: int = 200

    @property
    def named(self) -> list[Series]:
        return [series for series in self.series if series.name and series.marks]


def colour(index: int) -> int:
    """Of the series of that index."""
    return index % COLOURS + 1
