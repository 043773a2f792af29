"""The headline of a run as rows of data: one function makes them, so every place that shows them agrees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

HEADER = ("", "before", "after", "change")
#: a metric of this ending says how another one was measured, and is no number
PROTOCOL = "_protocol"


@dataclass(frozen=True)
class Row:
    """One measure before and after; `after` is None where it was not measured."""

    measure: str
    before: float
    after: float | None
    show: Callable[[float], str]

    @property
    def change(self) -> float | None:
        """(after - before) / before."""
        return None if self.after is None or not self.before else self.after / self.before - 1

    def cells(self) -> tuple[str, str, str, str]:
        after = "" if self.after is None else self.show(self.after)
        return self.measure, self.show(self.before), after, percent(self.change)


def headline(report: Mapping[str, Any]) -> list[Row]:
    """Rows of the table: what of a model's costs and measurements the report holds, before and after."""
    return list(_rows(report["before"], report.get("after", {})))


def _rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Row]:
    for key, (measure, show) in _COSTS.items():
        if key in before:
            yield Row(measure, before[key], after.get(key), show)
    for metric in [key for key in before if key not in _COSTS and not key.endswith(PROTOCOL)]:
        values, later = before[metric], after.get(metric)
        if isinstance(values, Mapping):
            for name, value in values.items():
                yield Row(f"{metric}, {name}", value, (later or {}).get(name), metric_value)
        elif isinstance(values, (int, float)):
            yield Row(metric, values, later, metric_value)


def count(value: float) -> str:
    """1234567 -> 1,234,567; from a billion on in billions."""
    return f"{value / 1e9:,.3f} billion" if value >= 1e9 else f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes in the largest unit of 1000 that leaves at least one before the point."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.2f} {unit}"
        value /= 1000
    return f"{value:,.2f} TB"


def metric_value(value: float) -> str:
    """Four digits that count; perplexities of ruined models in powers of ten."""
    return f"{value:.2e}" if abs(value) >= 1e6 else f"{value:,.2f}" if abs(value) >= 10 else f"{value:.4g}"


def percent(change: float | None) -> str:
    """0.123 -> +12.3%; beyond a doubling as a factor."""
    if change is None:
        return ""
    return f"×{change + 1:,.1f}" if change > 1 else f"{change:+.1%}"


#: key of report.json -> what the table calls it, and how it is written
_COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "parameters": ("parameters", count),
    "layer_parameters": ("  of these in layers", count),
    "macs": ("MACs per token", count),
    "bytes": ("size on disk", size),
    "kv_cache_bytes_per_token": ("KV cache per token", size),
}
