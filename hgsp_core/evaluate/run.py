"""Measuring models: of one, of two side by side, and the function behind `hgsp eval`.

An evaluator is called with one model at a time. One that also has `compare` (timings: what else the machine does must meet
both models alike) is given the original and the pruned model together.

torch is imported where a model is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from hgsp_core.checkpoint.read import largest_token, read_config, stored_dtype, weight_bytes
from hgsp_core.errors import RecipeError
from hgsp_core.evaluate.contract import EvaluateJob
from hgsp_core.evaluate.errors import EvaluationError
from hgsp_core.files.json_files import write_json
from hgsp_core.files.paths import expanded
from hgsp_core.files.text import require_writable
from hgsp_core.plugin import registry
from hgsp_core.plugin.errors import PluginError
from hgsp_core.report.cost import COSTS
from hgsp_core.report.tables import PROTOCOL
from hgsp_core.run.errors import OutputError
from hgsp_core.run.measure import placed
from hgsp_core.run.monitor import Monitor, Progress
from hgsp_core.run.recipe import ModelPart, Use
from hgsp_core.run.source import BYTES, checkpoint_layout, locate
from hgsp_core.run.store import Store
from hgsp_core.run.versions import versions


@dataclass(frozen=True)
class Evaluators:
    """The measurements asked for, by the name that a recipe gives them: of one model, and of two side by side."""

    alone: tuple[tuple[str, Any], ...]
    paired: tuple[tuple[str, Any], ...]

    @property
    def all(self) -> tuple[tuple[str, Any], ...]:
        """Both kinds."""
        return (*self.alone, *self.paired)


#: opens a model to measure, which tells this progress
Opener = Callable[[Progress], EvaluateJob]


def open_evaluators(uses: Sequence[Use]) -> Evaluators:
    """Make them ready; what they need (texts, tasks, libraries) and do not find is an error now, before any work.

    Raises:
        HgspError: whatever an evaluator lacks; EvaluationError: two give the same measurement.
    """
    seen: set[str] = set()
    opened = []
    for index, use in enumerate(uses):
        evaluator = registry.build("evaluator", use.use, use.with_)
        for measure in getattr(evaluator, "measures", ()):
            if measure in seen:
                raise EvaluationError.twice(f"evaluate.{index}", measure)
            seen.add(measure)
        opened.append((use.use, evaluator))
    paired = tuple((name, evaluator) for name, evaluator in opened if hasattr(evaluator, "compare"))
    return Evaluators(tuple(item for item in opened if item not in paired), paired)


def check_evaluable(evaluators: Evaluators, model: ModelPart) -> None:
    """Evaluators that need the model whole, in a recipe that streams it: refused before anything is measured.

    Weights that are streamed because they do not fit are found to be when they are opened. So are texts with tokens that
    the model's embedding has no row for, where its tokenizer can give such tokens.

    Raises:
        EvaluationError, DataError: names the first of them.
    """
    for name, evaluator in evaluators.all:
        if model.weights == "streamed" and getattr(evaluator, "whole_model", False):
            raise EvaluationError.streamed(name)
    directory = locate(model)
    rows = read_config(directory).get("vocab_size")
    if isinstance(rows, int) and largest_token(directory) >= rows:
        from hgsp_core.checkpoint.load import load_tokenizer

        tokenizer = load_tokenizer(directory)
        for _, evaluator in evaluators.all:
            if hasattr(evaluator, "check_tokens"):
                evaluator.check_tokens(tokenizer, rows)


def evaluate_one(evaluators: Evaluators, opener: Opener, stage: str, monitor: Monitor) -> dict[str, Any]:
    """The metrics of a model, of all evaluators but those that take two; that it will do for those is made sure of too."""
    if not evaluators.all:
        return {}
    with monitor.stage(stage) as progress:
        job = opener(progress)
        _require(evaluators.all, job)
        return metrics(evaluators.alone, job)


def evaluate_original(
    evaluators: Evaluators, opener: Opener, made_of: Mapping[str, Any], store: Store, monitor: Monitor
) -> tuple[dict[str, Any], list[str]]:
    """As `evaluate_one`, of a model that many runs start from: what was measured before is found in the store.

    Kept are the metrics of evaluators with a method `inputs() -> Mapping`: everything but the model that they depend on, as
    plain data. Timings have none.

    Args:
        made_of: what tells the model from others: its fingerprint, number type and device.

    Returns:
        the metrics, and the names of those evaluators whose metrics were found.
    """
    keys = [
        hasattr(e, "inputs")
        and {**made_of, "evaluator": f"{type(e).__module__}:{type(e).__qualname__}", "inputs": e.inputs()}
        for _, e in evaluators.alone
    ]
    kept = [key and store.get("evaluation", key) for key in keys]
    found = [json.loads(arrays["metrics"].tobytes()) if arrays else None for arrays in kept]
    known = [name for (name, _), metrics_ in zip(evaluators.alone, found, strict=True) if metrics_ is not None]
    if None in found or evaluators.paired:
        with monitor.stage("Evaluate original") as progress:
            job = opener(progress)
            _require(evaluators.all, job)
            for i, item in enumerate(evaluators.alone):
                if found[i] is None:
                    found[i] = metrics([item], job)
                    if keys[i]:
                        text = json.dumps(found[i]).encode()
                        store.put("evaluation", keys[i], {"metrics": np.frombuffer(text, dtype=np.uint8)})
    result: dict[str, Any] = {}
    for part in found:
        merge(result, part)
    return result, known


def evaluate_pair(
    evaluators: Evaluators, dense: Opener, pruned: Opener, monitor: Monitor
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics of evaluators that take two models: measured in turns, or where both do not fit one after the other."""
    if not evaluators.paired:
        return {}, {}
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    with monitor.stage("Evaluate both") as progress:
        second = pruned(progress)
        _require(evaluators.paired, second)
        first = dense(progress)
        if first.model is None:
            monitor.say(
                "Both models do not fit in memory together: they are measured one after the other, not in turns."
            )
            after = metrics(evaluators.paired, second)
            del second, first
            return metrics(evaluators.paired, dense(progress)), after
        for _, evaluator in evaluators.paired:
            for result, found in zip((before, after), evaluator.compare(first, second), strict=True):
                merge(result, found)
    return before, after


def metrics(evaluators: Sequence[tuple[str, Any]], job: EvaluateJob) -> dict[str, Any]:
    """The metrics of one model. Raises EvaluationError where one needs a model that is whole in memory, and this is not."""
    _require(evaluators, job)
    result: dict[str, Any] = {}
    for _, evaluator in evaluators:
        merge(result, evaluator(job))
    return result


def _require(evaluators: Sequence[tuple[str, Any]], job: EvaluateJob) -> None:
    for name, evaluator in evaluators:
        if job.model is None and getattr(evaluator, "whole_model", False):
            raise EvaluationError.streamed(name)


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
    if output is not None:
        _require_free(output)
    directory, original = model_directory(model), None if dense is None else model_directory(dense)
    with monitor.stage("Evaluate (prepare)"):
        evaluators = open_evaluators(uses)
        check_evaluable(evaluators, ModelPart(path=str(directory)))
    dtype = stored_dtype(directory) if dtype == "auto" else dtype
    _, device = placed(dtype, device)
    pruned = partial(_open, directory, dtype, device, seed, monitor)
    after = _size(directory)
    if original is None:
        alone = replace(evaluators, alone=evaluators.all, paired=())
        result = {"after": after | evaluate_one(alone, pruned, "Evaluate", monitor)}
    else:
        first = partial(_open, original, dtype, device, seed, monitor)
        before = _size(original) | evaluate_one(evaluators, first, "Evaluate original", monitor)
        after |= evaluate_one(evaluators, pruned, "Evaluate pruned", monitor)
        both = evaluate_pair(evaluators, first, pruned, monitor)
        before, after = before | both[0], after | both[1]
        result = {"ratio": ratios(before, after), "before": before, "after": after}
    result |= {
        "model": str(model),
        "dense": None if dense is None else str(dense),
        "dtype": dtype,
        "device": device,
        "evaluate": [use.model_dump(mode="json") for use in uses],
        "timings": dict(monitor.timings),
        "versions": versions(),
    }
    if output is not None:
        _write(output, result)
    return result


def model_directory(model: str | Path) -> Path:
    """Where a model lies: the model of a run, a directory, or what a hub id stands for. Raises HgspError if nowhere."""
    path = expanded(model)
    if (path / "report.json").is_file() and not (path / "config.json").is_file():
        if not (path / "model" / "config.json").is_file():
            raise EvaluationError.no_model_in_run(path)
        path = path / "model"
    directory = path if path.is_dir() else locate(ModelPart(path=str(model)))
    read_config(directory)
    return directory


def _open(directory: Path, dtype: str, device: str, seed: int, monitor: Monitor, progress: Progress) -> EvaluateJob:
    """A model of any family loaded whole, or streamed where that would not fit and a plugin knows the family."""
    import torch

    from hgsp_core.checkpoint.load import load_model, load_tokenizer, require_agreement
    from hgsp_core.engine.likelihood import model_loss, total_loss
    from hgsp_core.engine.memory import SHARE, free_bytes
    from hgsp_core.engine.weights import Streamed

    tokenizer, number_type = load_tokenizer(directory), getattr(torch, dtype)
    needed, free = _size(directory)["parameters"] * BYTES[dtype], free_bytes(torch.device(device))
    if needed > SHARE * free:
        monitor.say(f"Weights are streamed: {needed / 2**30:.2f} GiB do not fit well into {free / 2**30:.2f} GiB free.")
        weights = Streamed(directory, checkpoint_layout(directory), number_type, device)
        return EvaluateJob(None, tokenizer, partial(total_loss, weights), seed, progress, weights.layout.vocabulary)
    model, _ = load_model(directory, number_type, device)
    with suppress(PluginError):  # a family that no plugin knows is as transformers loads it
        require_agreement(directory, model, checkpoint_layout(directory))
    rows = model.get_input_embeddings().weight.shape[0]
    return EvaluateJob(model, tokenizer, partial(model_loss, model), seed, progress, rows)


def _size(directory: Path) -> dict[str, int]:
    from hgsp_core.checkpoint.load import expected_shapes

    return {"parameters": sum(map(prod, expected_shapes(directory).values())), "bytes": weight_bytes(directory)}


def _require_free(output: Path) -> None:
    """Raises OutputError where it can be seen beforehand that the result cannot be written."""
    try:
        if output.exists() or output.is_symlink():
            raise OutputError.exists(str(output))
        require_writable(output.parent)
    except OSError as error:
        raise OutputError.cannot_make(str(output), error) from None


def _write(output: Path, result: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, result)
    except OSError as error:
        raise OutputError.cannot_make(str(output), error) from None
