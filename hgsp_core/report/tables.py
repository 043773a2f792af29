"""The headline of a run as rows of data: one function makes them, so every place that shows them agrees."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hgsp_core.report import texts
from hgsp_core.report.contract import PROTOCOL

HEADER = ("", "before", "after", "change")
#: a metric of this ending is the standard error of another one
STDERR = "_stderr"
#: what tables call the divergence that the evaluator `fidelity` measures and that a plan predicts
KL = "KL to dense"


@dataclass(frozen=True)
class Row:
    """One measure before and after; `after` is None where it was not measured, `error` is its standard error if it has one.

    unseen: measured on a text that the model was not calibrated on, which a star marks
    """

    measure: str
    before: float
    after: float | None
    show: Callable[[float], str]
    error: float | None = None
    unseen: bool = False

    @property
    def change(self) -> float | None:
        """(after - before) / before."""
        return None if self.after is None or not self.before else self.after / self.before - 1

    def cells(self) -> tuple[str, str, str, str]:
        after = "" if self.after is None else with_error(self.after, self.error, self.show)
        return f"{self.measure} *" if self.unseen else self.measure, self.show(self.before), after, percent(self.change)


def headline(report: Mapping[str, Any]) -> list[Row]:
    """Rows of the table: what of a model's costs and measurements the report holds, before and after."""
    rows = list(_rows(report["before"], report.get("after", {}), texts.unseen(report)))
    first = next((i for i, row in enumerate(rows) if row.measure.startswith(f"{KL}, ")), None)
    if first is not None and (predicted := report.get("predicted_kl")) is not None:
        rows.insert(first, Row(f"{KL}, predicted", 0.0, predicted, metric_value))
    return rows


def evaluation(result: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and cells of what `evaluate_checkpoint` found: of two models the ratio first, of one its measurements."""
    if "before" not in result:
        return ("", "measured"), [(row.measure, row.show(row.before)) for row in headline({"before": result["after"]})]
    cells: list[tuple[str, ...]] = []
    for row in headline(result):
        ratio = "" if row.change is None else f"×{row.change + 1:.3f}"
        cells.append((row.measure, ratio, *row.cells()[1:3]))
    return ("", "ratio", "original", "model"), cells


def _rows(before: Mapping[str, Any], after: Mapping[str, Any], unseen: Container[str]) -> Iterator[Row]:
    for key, (measure, show) in _COSTS.items():
        if key in before:
            yield Row(measure, before[key], after.get(key), show)
    for metric in [key for key in before if key not in _COSTS and not key.endswith((PROTOCOL, STDERR))]:
        values, later, errors = before[metric], after.get(metric), after.get(metric + STDERR)
        measure, show = _METRICS.get(metric, (metric, metric_value))
        if isinstance(values, Mapping):
            for name, value in values.items():
                if isinstance(value, (int, float)):  # what lies deeper is detail
                    error = errors.get(name) if isinstance(errors, Mapping) else None
                    yield Row(f"{measure}, {name}", value, (later or {}).get(name), show, error, name in unseen)
        elif isinstance(values, (int, float)):
            yield Row(measure, values, later, show)


def with_error(value: float, error: float | None, show: Callable[[float], str]) -> str:
    """The number, and its standard error if it has one, to two significant digits."""
    return show(value) if error is None else f"{show(value)} ± {show(float(f'{error:.2g}'))}"


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


def milliseconds(value: float) -> str:
    """Seconds as milliseconds: 0.01234 -> 12.3 ms."""
    return f"{value * 1000:,.3g} ms" if value < 1 else f"{value * 1000:,.0f} ms"


def per_second(value: float) -> str:
    return f"{value:,.0f} /s" if value >= 100 else f"{value:.3g} /s"


def metric_value(value: float) -> str:
    """Four significant digits; huge perplexities in powers of ten."""
    return f"{value:.2e}" if abs(value) >= 1e6 else f"{value:,.2f}" if abs(value) >= 10 else f"{value:.4g}"


def share(value: float) -> str:
    """0.123 -> 12.3%."""
    return f"{value:.1%}"


def percent(change: float | None) -> str:
    """0.123 -> +12.3%; beyond a doubling as a factor."""
    if change is None:
        return ""
    return f"×{change + 1:,.1f}" if change > 1 else f"{change:+.1%}"


#: key of report.json -> what the table calls it, and how it is written
_COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "parameters": ("parameters", count),
    "layer_parameters": ("  of these in layers", count),
    "active_parameters": ("  of these active per token", count),
    "macs": ("MACs per token", count),
    "bytes": ("size on disk", size),
    "kv_cache_bytes_per_token": ("KV cache per token", size),
}

#: likewise of what is between the two models
FIDELITY: dict[str, tuple[str, Callable[[float], str]]] = {
    "kl_to_dense": (KL, metric_value),
    "same_top_token": ("same top token", share),
    "kl_of_choices": ("KL of choices", metric_value),
    "answer_accuracy": ("answer accuracy", share),
    "answer_accuracy_change": ("change of answer accuracy", share),
    "target_nats": ("nats of target", metric_value),
    "target_nats_change": ("change of nats of target", metric_value),
    "same_greedy_answer": ("same greedy answer", share),
    "same_greedy_tokens": ("same greedy tokens", metric_value),
}

#: likewise of metrics that are measured and are not in numbers of their own kind
_METRICS: dict[str, tuple[str, Callable[[float], str]]] = {
    "prefill_seconds": ("prefill", milliseconds),
    "prefill_tokens_per_second": ("prefill tokens", per_second),
    "decode_seconds_per_token": ("decode per token", milliseconds),
    "decode_tokens_per_second": ("decode tokens", per_second),
    "peak_memory_bytes": ("peak memory", size),
    "kv_cache_bytes": ("KV cache", size),
    "macs_per_token": ("MACs per token counted", count),
    "padded_macs_per_token": ("MACs per token in full tiles", count),
    **FIDELITY,
}
