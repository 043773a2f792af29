"""`hgsp eval`: any model directory measured, alone or against its original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from hgsp_core.checkpoint.read import stored_dtype, weight_bytes
from hgsp_core.evaluate.contract import EvaluateJob
from hgsp_core.evaluate.run import check_evaluable, evaluate_one, evaluate_pair, open_evaluators, require_alone
from hgsp_core.files.json_files import write_json
from hgsp_core.files.text import require_writable
from hgsp_core.plugin.errors import PluginError
from hgsp_core.report.contract import PROTOCOL
from hgsp_core.report.tables import STDERR
from hgsp_core.runtime.directory import new_output
from hgsp_core.runtime.measure import fits, placed
from hgsp_core.runtime.monitor import LogMonitor, Monitor, Progress
from hgsp_core.runtime.recipe import ModelPart, Use
from hgsp_core.runtime.source import checkpoint_layout, model_directory
from hgsp_core.runtime.versions import versions


def ratios(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """after / before, of every metric that both have: a number, or one number for each name."""
    found: dict[str, Any] = {}
    for metric, value in before.items():
        later = after.get(metric)
        if isinstance(value, Mapping) and isinstance(later, Mapping) and not metric.endswith((PROTOCOL, STDERR)):
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
    monitor: Monitor | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    dense: str | Path | None = None,
    output: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a model, and with `dense` its original too, in the same process.

    Args:
        model: a Hugging Face directory, a run directory of this package, or a hub id; `dense` likewise.
        uses: evaluators, as in a recipe's `evaluate`: `Use.model_validate({"use": "perplexity"})`.
        monitor: told of the progress; None: what it would say goes to the logger "hgsp".
        dtype: of both; auto = as `model` is stored.
        output: file that the result is written to as JSON; must not exist.

    Returns:
        ratio (only with `dense`: after / before, number by number), before (only with `dense`), after, and how they were
        made: model, dense, dtype, device, evaluate, timings, versions. `before` and `after` are as in report.json.

    Raises:
        HgspError: a model, text, task or library that is not there; a result that exists.
    """
    monitor = monitor or LogMonitor()
    if output is not None:
        with new_output(output):
            require_writable(output.parent)
    directory, original = model_directory(model), None if dense is None else model_directory(dense)
    with monitor.stage("Evaluate (prepare)"):
        evaluators = open_evaluators(uses)
        if original is None:
            require_alone(evaluators)
        check_evaluable(evaluators, ModelPart(path=str(directory)))
    dtype = stored_dtype(directory) if dtype == "auto" else dtype
    _, device = placed(dtype, device)
    pruned = partial(_open, directory, dtype, device, seed, monitor)
    after = _size(directory)
    if original is None:
        alone = replace(evaluators, alone=evaluators.all, paired=())
        result: dict[str, Any] = {"after": after | evaluate_one(alone, pruned, "Evaluate", monitor)}
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
        with new_output(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            write_json(output, result)
    return result


def _open(directory: Path, dtype: str, device: str, seed: int, monitor: Monitor, progress: Progress) -> EvaluateJob:
    """A model of any family: resident, or streamed if it does not fit and a plugin knows the family."""
    import torch

    from hgsp_core.checkpoint.load import load_model, load_tokenizer, require_agreement
    from hgsp_core.engine.likelihood import model_logits, model_loss, total_loss, window_logits
    from hgsp_core.engine.weights import Streamed

    tokenizer, number_type = load_tokenizer(directory), getattr(torch, dtype)
    if not fits(_size(directory)["parameters"], dtype, device, monitor):
        weights = Streamed(directory, checkpoint_layout(directory), number_type, device)
        loss, logits = partial(total_loss, weights), partial(window_logits, weights)
        return EvaluateJob(None, tokenizer, loss, seed, progress, weights.layout.vocabulary, logits)
    model, _ = load_model(directory, number_type, device)
    with suppress(PluginError):  # a family that no plugin knows is as transformers loads it
        require_agreement(directory, model, checkpoint_layout(directory).shapes())
    rows = model.get_input_embeddings().get_parameter("weight").shape[0]
    loss, outputs = partial(model_loss, model), partial(model_logits, model)
    return EvaluateJob(model, tokenizer, loss, seed, progress, rows, outputs)


def _size(directory: Path) -> dict[str, int]:
    from hgsp_core.checkpoint.load import parameter_shapes, skeleton

    parameters = sum(map(prod, parameter_shapes(skeleton(directory)).values()))
    return {"parameters": parameters, "bytes": weight_bytes(directory)}
