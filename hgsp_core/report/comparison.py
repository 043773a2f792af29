"""Runs side by side as one table: for the terminal, Markdown, CSV and JSON, all from the same columns and lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hgsp_core.report import markdown as md
from hgsp_core.report.contract import PROTOCOL, Side
from hgsp_core.report.errors import CompareError
from hgsp_core.report.runs import Comparison, Run, describe_calibration
from hgsp_core.report.tables import FIDELITY, STDERR, count, metric_value, per_second, share, size, with_error
from hgsp_core.report.texts import UNSEEN, unseen

Show = Callable[[Any], str]


@dataclass(frozen=True)
class Column:
    """One column.

    show    writes a number; a column of text has none
    detail  only in CSV and JSON
    mark    key of another column: where that has a value, this one's cell gets a star
    error   key of another column, with the standard error
    """

    key: str
    title: str
    show: Show | None = None
    detail: bool = False
    mark: str = ""
    error: str = ""

    def cell(self, values: Mapping[str, Any]) -> str:
        value = values.get(self.key)
        if value is None:
            return ""
        shown = with_error(value, values.get(self.error), self.show) if self.show else str(value)
        return shown + (" *" if values.get(self.mark) else "")


@dataclass(frozen=True)
class Line:
    """One row of the table: a run, or (without one) the original that the runs below it are of."""

    run: Run | None
    values: Mapping[str, Any]


@dataclass(frozen=True)
class RunTable:
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    def shown(self) -> tuple[list[Column], list[list[str]]]:
        """What people are shown: the columns that say anything, and their cells line by line."""
        given = {key for line in self.lines for key, value in line.values.items() if value is not None}
        there = [column for column in self.columns if not column.detail and column.key in given]
        return there, [[column.cell(line.values) for column in there] for line in self.lines]

    def records(self) -> list[dict[str, Any]]:
        """Every column of every line, by key; numbers as they are."""
        return [{column.key: line.values.get(column.key) for column in self.columns} for line in self.lines]

    def sorted_by(self, key: str) -> RunTable:
        """The runs of each original in the order of a column (its key or title), least first, those without a value last.

        Raises:
            CompareError: there is no such column.
        """
        keys = {name: column.key for column in reversed(self.columns) for name in (column.title, column.key)}
        if key not in keys:
            raise CompareError.no_column(key, [column.key for column in self.columns if not column.detail])

        def place(line: Line) -> tuple[bool, Any]:
            value = line.values.get(keys[key])
            return value is None, value if value is not None else 0

        groups: list[list[Line]] = []
        for line in self.lines:
            groups += [[]] if line.run is None else []
            groups[-1].append(line)
        lines = tuple(line for dense, *runs in groups for line in (dense, *sorted(runs, key=place)))
        return RunTable(self.columns, lines)

    def footnotes(self) -> list[str]:
        """What the stars mean that are there."""
        notes = {
            "calibration": "* calibration: with settings of its own, not those of the model's other runs.",
            "prune_seconds": "* time to prune: what was found in the store is counted as long as it took to make, "
            "for all runs that share it.",
        }
        marks = {column.key: column.mark for column in self.columns}
        found = [note for key, note in notes.items() if any(line.values.get(marks[key]) for line in self.lines)]
        elsewhere = any(line.values.get(_unseen(key)) for line in self.lines for key in marks)
        return [*found, f"{UNSEEN}."] if elsewhere else found


def run_table(comparison: Comparison) -> RunTable:
    """The table of a comparison: under each original its runs, in the comparison's order."""
    lines = []
    for runs in comparison.models.values():
        lines.append(Line(None, _dense(runs, comparison)))
        lines += [Line(run, _values(run, comparison)) for run in runs]
    measures = list(dict.fromkeys(m for run in comparison.runs for m in _measures(run, "after", comparison)))
    return RunTable((*_NAMES, _COSTS[0], *_measured(measures), *_COSTS[1:], *_EFFORT, *_SETTINGS), tuple(lines))


def legend(comparison: Comparison) -> list[str]:
    """What the letters of the calibrations stand for."""
    first = {run.calibration: run for run in reversed(comparison.runs)}
    letters = comparison.calibrations.items()
    return [f"Calibration {letter}: {describe_calibration(first[sha])}" for sha, letter in letters]


def best_table(comparison: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and cells: the best run of each model and budget, among those that removed what was asked for."""
    text = next(iter(comparison.datasets), "")
    header = ("model", "budget", "best run", "method", "parameters", f"ppl {text}", "× dense")
    rows: list[tuple[str, ...]] = []
    for budget, run, perplexity in comparison.best():
        dense = comparison.perplexity(run, "before")
        factor = _factor(perplexity / dense) if dense else ""
        cells = count(run.report["after"]["parameters"]), metric_value(perplexity), factor
        rows.append((run.model, budget, run.name, run.method, *cells))
    return header, rows


def markdown(comparison: Comparison, table: RunTable) -> str:
    """The comparison as Markdown."""
    columns, cells = table.shown()
    parts = [_markdown_table([c.title for c in columns], cells, [c.show is not None for c in columns])]
    header, best = best_table(comparison)
    if best:
        parts += ["Best of each budget:", _markdown_table(header, best, [False] * 4 + [True] * 3)]
    parts += [md.bullets(lines) for lines in (comparison.warnings, [*table.footnotes(), *legend(comparison)]) if lines]
    return "\n\n".join(parts) + "\n"


def _markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]], right: Sequence[bool]) -> str:
    return md.table(map(md.text, header), (map(md.text, row) for row in rows), right)


def csv_text(table: RunTable) -> str:
    """Every column of every line, numbers as they are."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [column.key for column in table.columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records())
    return file.getvalue()


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def _factor(value: float) -> str:
    return f"{value:.3f}" if value < 100 else metric_value(value)


_NAMES = (
    Column("run", "run"),
    Column("model", "model"),
    Column("ratio_asked", "asked", share),
    Column("ratio_achieved", "achieved", share),
    Column("ratio_of", "of"),
)
_SETTINGS = (
    Column("method", "method"),
    Column("settings", "settings"),
    Column("calibration", "calibration", mark="own_calibration"),
    Column("own_calibration", "own calibration", detail=True),
    Column("tokens_sha256", "calibration tokens", detail=True),
)
_COSTS = (
    Column("parameters", "parameters", count),
    Column("layer_parameters", "of these in layers", count, detail=True),
    Column("active_parameters", "active per token", count, detail=True),
    Column("macs", "MACs per token", count, detail=True),
    Column("bytes", "on disk", size),
    Column("kv_cache_bytes_per_token", "KV cache per token", size, detail=True),
)
_EFFORT = (
    Column("prune_seconds", "time to prune", _seconds, mark="reused"),
    Column("reused", "reused", detail=True),
    Column("prune_memory_bytes", "memory to prune", size),
)
#: metrics of the efficiency measurement of which people are shown the first batch size; its other metrics are detail
_SPEED: dict[str, tuple[str, Show]] = {
    "prefill_tokens_per_second": ("prefill", per_second),
    "decode_tokens_per_second": ("decode", per_second),
    "peak_memory_bytes": ("memory", size),
}
_DETAIL = (
    "prefill_seconds",
    "decode_seconds_per_token",
    "kv_cache_bytes",
    "macs_per_token",
    "padded_macs_per_token",
    "lm_eval",
    "answer_accuracy",
    "target_nats",
    "same_greedy_tokens",
)


def _measured(measures: list[str]) -> Iterator[Column]:
    """A column for each measurement; perplexity, speed and memory with their ratio to the original."""
    mean = [m for m in measures if m.startswith("accuracy, mean of ")]
    seen: set[str] = set()
    for measure in measures:
        metric, _, name = measure.partition(", ")
        if metric == "perplexity":
            yield Column(measure, f"ppl {name}", metric_value, mark=_unseen(measure))
            yield Column(f"{measure} / dense", "× dense", _factor)
        elif metric in _SPEED:
            title, show = _SPEED[metric]
            yield Column(measure, f"{title}, {name}", show, detail=metric in seen)
            yield Column(f"{measure} / dense", "× dense", _factor, detail=metric in seen)
        elif metric == "accuracy":
            title = f"accuracy {name}".replace("mean of", "of")
            yield Column(measure, title, share, detail=bool(mean) and measure not in mean)
        elif metric.endswith(STDERR):
            yield Column(measure, measure, metric_value, detail=True)
        else:
            if metric == "kl_to_dense" and metric not in seen:
                yield Column("predicted_kl", "predicted KL", metric_value)
            title, show = FIDELITY.get(metric, (metric, metric_value))
            title = f"{title}, {name}" if name else title
            error = f"{metric}{STDERR}, {name}" if name else metric + STDERR
            yield Column(measure, title, show, detail=metric in _DETAIL, mark=_unseen(measure), error=error)
        seen.add(metric)


def _values(run: Run, comparison: Comparison) -> dict[str, Any]:
    before, after = _measures(run, "before", comparison), _measures(run, "after", comparison)
    elsewhere = unseen(run.report)
    return {
        "run": run.name,
        "model": run.model,
        "method": run.method,
        "settings": ", ".join(f"{key}={value}" for key, value in comparison.settings[run.name].items()) or None,
        "calibration": comparison.calibrations.get(run.calibration) if run.calibration else None,
        "own_calibration": run.name in comparison.own_calibration or None,
        "tokens_sha256": run.calibration,
        "ratio_asked": run.asked,
        "ratio_achieved": run.achieved,
        "ratio_of": run.ratio_of,
        **{column.key: run.report["after"].get(column.key) for column in _COSTS},
        "predicted_kl": run.report.get("predicted_kl"),
        **after,
        **{_unseen(measure): True for measure in after if measure.partition(", ")[2] in elsewhere},
        **{f"{m} / dense": after[m] / before[m] for m in after if _has_factor(m) and before.get(m)},
        "prune_seconds": run.seconds,
        "reused": ", ".join(run.reused) or None,
        "prune_memory_bytes": run.report.get("peak_memory_bytes"),
    }


def _dense(runs: Iterable[Run], comparison: Comparison) -> dict[str, Any]:
    """The original, as its runs measured it: each value by the first run that has it."""
    values: dict[str, Any] = {}
    for run in runs:
        found = {c.key: run.report["before"].get(c.key) for c in _COSTS} | _measures(run, "before", comparison)
        found |= {f"{m} / dense": 1.0 for m in found if _has_factor(m)}
        values = {"run": "dense", "model": run.model, **found, **values}
    return values


def _unseen(measure: str) -> str:
    """Key of the mark of a measure on a text that the run was not calibrated on."""
    return f"{measure}, not calibrated on"


def _has_factor(measure: str) -> bool:
    return measure.partition(", ")[0] in ("perplexity", *_SPEED)


def _measures(run: Run, side: Side, comparison: Comparison) -> dict[str, float]:
    """Measurements as `metric, name` -> number, the perplexity that runs are judged by first."""
    found: dict[str, float] = {}
    for metric, value in run.report[side].items():
        if metric in {column.key for column in _COSTS} or metric.endswith(PROTOCOL):
            continue
        for name, number in value.items() if isinstance(value, Mapping) else [("", value)]:
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                found[f"{metric}, {name}" if name else metric] = number
    first = [m for m in (f"perplexity, {name}" for name in comparison.datasets) if m in found]
    return {m: found[m] for m in dict.fromkeys((*first, *found))}
