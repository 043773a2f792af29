"""Measuring models: of one, of two side by side, and the function behind `hgsp eval`.

An evaluator is called with one model at a time. One that also has `compare` (timings, where what else the machine does
must meet both models alike) is given the original and the pruned model together.

torch is imported where a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hgsp_core import plugins
from hgsp_core.checkpoint.read import read_config, stored_dtype, weight_bytes
from hgsp_core.errors import EvaluationError, OutputError, RecipeError
from hgsp_core.monitor import Monitor, Progress
from hgsp_core.recipe import ModelPart, Use
from hgsp_core.report.cost import COSTS
from hgsp_core.report.json_files import write_json
from hgsp_core.report.tables import PROTOCOL
from hgsp_core.source import locate
from hgsp_core.types import EvaluateJob
from hgsp_core.versions import versions


@dataclass(frozen=True)
class Evaluators:
    """The measurements asked for, by the name that a recipe gives them: of one model, and of two side by side."""

    alone: tuple[tuple[str, Any], ...]
    paired: tuple[tuple[str, Any], ...]

    def require(self, job: EvaluateJob) -> None:
        """Raises EvaluationError where one of them needs a model that is whole in memory, and this one is not."""
        for name, evaluator in (*self.alone, *self.paired):
            if job.model is None and getattr(evaluator, "whole_model", False):
                raise EvaluationError.streamed(name)


def open_evaluators(uses: Sequence[Use], place: str = "evaluate") -> Evaluators:
    """Make them ready; what they need (texts, tasks, libraries) and do not find is an error now, before any work.

    Raises:
        HgspError: whatever an evaluator lacks; EvaluationError: two give the same measurement.
    """
    seen: set[str] = set()
    opened = []
    for index, use in enumerate(uses):
        evaluator = plugins.build("evaluator", use.use, use.with_)
        for measure in getattr(evaluator, "measures", ()):
            if measure in seen:
                raise EvaluationError.twice(f"{place}.{index}", measure)
            seen.add(measure)
        opened.append((use.use, evaluator))
    paired = tuple((name, evaluator) for name, evaluator in opened if hasattr(evaluator, "compare"))
    return Evaluators(tuple(item for item in opened if item not in paired), paired)


def metrics(evaluators: Sequence[tuple[str, Any]], job: EvaluateJob) -> dict[str, Any]:
    """The metrics of a model."""
    result: dict[str, Any] = {}
    for _, evaluator in evaluators:
        merge(result, evaluator(job))
    return result


def compare(
    evaluators: Sequence[tuple[str, Any]], dense: EvaluateJob, pruned: EvaluateJob
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics of both models, measured in turns."""
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for _, evaluator in evaluators:
        for result, found in zip((before, after), evaluator.compare(dense, pruned)):
            merge(result, found)
    return before, after


def merge(result: dict[str, Any], found: Mapping[str, Any]) -> None:
    """Add an evaluator's metrics; two may give the same metric of different things, and none may hide another's."""
    for metric, value in found.items():
        there = result.get(metric)
        if isinstance(there, dict) and isinstance(value, Mapping) and not there.keys() & value.keys():
            there.update(value)
        elif metric in result or metric in COSTS:
            raise RecipeError(f"evaluate: two measurements give '{metric}' of the same thing; leave one of them out.")
        else:
            result[metric] = dict(value) if isinstance(value, Mapping) else value


def ratios(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """after / before, of every metric that both have: a number, or one number for each name."""
    found: dict[str, Any] = {}
    for metric, value in before.items():
        later = after.get(metric)
        if isinstance(value, Mapping) and isinstance(later, Mapping) and not metric.endswith(PROTOCOL):
            numbers = {name: later[name] / v for name, v in value.items() if name in later and _is_number(v) and v}
            found |= {metric: numbers} if numbers else {}
        elif _is_number(value) and _is_number(later) and value:
            found[metric] = later / value
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def evaluate_checkpoint(
    model: str | Path,
    uses: Sequence[Use],
    monitor: Monitor,
    *,
    dtype: str = "auto",
    device: str = "auto",
    dense: str | Path | None = None,
    output: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a model, and with `dense` the model that it was made from too, in the same process.

    Args:
        model: a Hugging Face directory, a run directory of this package, or a hub id; `dense` likewise.
        uses: evaluators, as in a recipe's `evaluate`.
        dtype: number type of both; auto = as `model` is stored.
        output: file that the result is written to as JSON; must not exist.
    Returns:
        ratio (only with `dense`: after / before, number by number), before (only with `dense`), after, and how they were
        made: model, dense, dtype, device, evaluate, timings, versions. `before` and `after` are as in report.json.
    Raises:
        HgspError: a model, text, task or library that is not there; a result that exists.
    """
    if output is not None and output.exists():
        raise OutputError.exists(str(output))
    evaluators = open_evaluators(uses)
    directory = model_directory(model)
    original = None if dense is None else model_directory(dense)
    dtype = stored_dtype(directory) if dtype == "auto" else dtype

    before: dict[str, Any] = {}
    first = None
    if original is not None:
        with monitor.stage("Evaluate original") as progress:
            first = _job(original, dtype, device, seed, progress)
            before = _size(original, first) | metrics(evaluators.alone, first)
            first = first if evaluators.paired else None  # or its memory is free before the second is loaded
    with monitor.stage("Evaluate model") as progress:
        second = _job(directory, dtype, device, seed, progress)
        after = _size(directory, second) | metrics(evaluators.alone, second)
        if first is None:
            after |= metrics(evaluators.paired, second)
        else:
            both = compare(evaluators.paired, replace(first, progress=progress), second)
            before, after = before | both[0], after | both[1]

    result = {"ratio": ratios(before, after), "before": before} if original is not None else {}
    result |= {
        "after": after,
        "model": str(model),
        "dense": None if dense is None else str(dense),
        "dtype": dtype,
        "device": str(second.model.device),
        "evaluate": [use.model_dump(mode="json") for use in uses],
        "timings": dict(monitor.timings),
        "versions": versions(),
    }
    if output is not None:
        _write(output, result)
    return result


def model_directory(model: str | Path) -> Path:
    """Where a model lies: the model of a run, a directory, or what a hub id stands for. Raises HgspError if nowhere."""
    path = Path(model).expanduser()
    if (path / "report.json").is_file() and not (path / "config.json").is_file():
        if not (path / "model" / "config.json").is_file():
            raise EvaluationError.no_model_in_run(path)
        path = path / "model"
    directory = path if path.is_dir() else locate(ModelPart(path=str(model)))
    read_config(directory)
    return directory


def _job(directory: Path, dtype: str, device: str, seed: int, progress: Progress) -> EvaluateJob:
    from hgsp_core.checkpoint.load import load_model, load_tokenizer
    from hgsp_core.measure import placed
    from hgsp_core.sweep.likelihood import model_loss

    tokenizer = load_tokenizer(directory)
    model, _ = load_model(directory, *placed(dtype, device))
    return EvaluateJob(model, tokenizer, partial(model_loss, model), seed, progress)


def _size(directory: Path, job: EvaluateJob) -> dict[str, int]:
    return {"parameters": job.model.num_parameters(), "bytes": weight_bytes(directory)}


def _write(output: Path, result: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    staging = output.with_name(f".{output.name}.partial")
    try:
        staging.parent.mkdir(parents=True, exist_ok=True)
        write_json(staging, result)
        staging.rename(output)
    except OSError as error:
        raise OutputError.cannot_make(str(output), error) from None
