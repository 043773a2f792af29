"""Values -> places on an axis, and the values that label it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

#: an axis over a wider range than this counts in powers of ten
_WIDE = 50.0
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, even or in powers of ten."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def over(cls, values: Iterable[float], zero: bool = False) -> Scale:
        """An axis on which all values have a place, in powers of ten where they differ much and all are positive.

        Args:
            zero: the axis begins at 0 and is even, as bars need it. NaN and infinities are left out.
        """
        finite = [float(v) for v in values if math.isfinite(v)]
        low, high = min(finite, default=0.0), max(finite, default=1.0)
        if zero:
            return cls(min(low, 0.0), max(high, 0.0) or 1.0)
        if low > 0 and high > _WIDE * low:
            return cls(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)), True)
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low - margin if low < 0 or low > margin else 0.0, high + margin)

    def place(self, value: float) -> float:
        """Per cent of the axis."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return 100 * min(max((value - low) / (high - low), 0.0), 1.0)

    def ticks(self, count: int = 5) -> list[float]:
        """At most about `count` round values."""
        if self.log:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first) / count)))]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in _STEPS if s * power >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def every(count: int, most: int = 16) -> int:
    """The step at which `count` things in a row are labelled, so that at most `most` labels stand there."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if count <= most * step or step == 1000)


def short(value: float) -> str:
    """A tick's label: 0.25, 20, 1e-06 as 10⁻⁶."""
    if value > 0 and (value < 1e-3 or value >= 1e5) and math.isclose(math.log10(value), round(math.log10(value))):
        return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{value:.4g}"
