"""Measurements of one model, or of the original and the pruned model.

An evaluator is called with one model at a time; a `PairEvaluator` is given the original and the pruned model together.

torch is imported where a model is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hgsp_core.checkpoint.read import largest_token, read_config, tokenizer_digest
from hgsp_core.errors import RecipeError
from hgsp_core.evaluate.contract import EvaluateJob, Evaluator, Metrics, PairEvaluator
from hgsp_core.evaluate.errors import EvaluationError
from hgsp_core.model.layout import Layout
from hgsp_core.report.cost import COSTS
from hgsp_core.runtime.measure import open_weights, placed
from hgsp_core.runtime.monitor import Monitor, Progress
from hgsp_core.runtime.recipe import ModelPart, Recipe, Use
from hgsp_core.runtime.source import Source, locate
from hgsp_core.runtime.store import Store


@dataclass(frozen=True)
class Evaluators:
    """The measurements asked for, by the name that a recipe gives them: of one model, and of two side by side."""

    alone: tuple[tuple[str, Evaluator[Any]], ...]
    paired: tuple[tuple[str, PairEvaluator[Any]], ...]

    @property
    def all(self) -> tuple[tuple[str, Evaluator[Any]], ...]:
        """Both kinds."""
        return (*self.alone, *self.paired)


#: opens a model to measure, which tells this progress
Opener = Callable[[Progress], EvaluateJob]


def open_evaluators(uses: Sequence[Use]) -> Evaluators:
    """Build the evaluators; missing texts, tasks or libraries are errors now, before any work.

    Raises:
        HgspError: whatever an evaluator lacks; EvaluationError: two give the same measurement.
    """
    seen: set[str] = set()
    opened: list[tuple[str, Evaluator[Any]]] = []
    for index, use in enumerate(uses):
        evaluator = use.build(Evaluator)
        for measure in evaluator.measures:
            if measure in seen:
                raise EvaluationError.twice(f"evaluate.{index}", measure)
            seen.add(measure)
        opened.append((use.use, evaluator))
    paired = tuple((name, evaluator) for name, evaluator in opened if isinstance(evaluator, PairEvaluator))
    return Evaluators(tuple(item for item in opened if item not in paired), paired)


def check_evaluable(evaluators: Evaluators, model: ModelPart) -> None:
    """Refuse evaluators that need resident weights in a recipe that streams them, before anything is measured.

    Weights that are streamed because they do not fit are found to be when they are opened. So are texts with tokens that
    the model's embedding has no row for, where its tokenizer can give such tokens.

    Raises:
        EvaluationError, DataError: names the first of them.
    """
    for name, evaluator in evaluators.all:
        if model.weights == "streamed" and evaluator.whole_model:
            raise EvaluationError.streamed(name)
    directory = locate(model)
    rows = read_config(directory).get("vocab_size")
    if isinstance(rows, int) and largest_token(directory) >= rows:
        from hgsp_core.checkpoint.load import load_tokenizer

        tokenizer = load_tokenizer(directory)
        for _, evaluator in evaluators.all:
            evaluator.check_tokens(tokenizer, rows)


def require_alone(evaluators: Evaluators) -> None:
    """Raises EvaluationError where an evaluator measures nothing without a dense model."""
    for name, evaluator in evaluators.paired:
        if evaluator.needs_dense:
            raise EvaluationError.needs_dense(name)


def evaluate_one(evaluators: Evaluators, opener: Opener, stage: str, monitor: Monitor) -> dict[str, Any]:
    """The metrics of the evaluators of one model; also checks that the model suits the paired ones."""
    if not evaluators.all:
        return {}
    with monitor.stage(stage) as progress:
        return metrics(evaluators.alone, _opened(evaluators, opener, progress))


def evaluate_source(
    evaluators: Evaluators, source: Source, recipe: Recipe, monitor: Monitor, store: Store
) -> tuple[dict[str, Any], list[str]]:
    """As `evaluate_one`, of the original, from which many runs start: what was measured before is found in the store.

    The store keeps the metrics of evaluators whose `inputs` tells what they depend on. Timings have none.

    Returns:
        the metrics, and the names of those evaluators whose metrics were found.
    """
    made_of = _made_of(source, recipe)
    opener = partial(open_job, source.directory, source.layout, source.dtype, recipe, monitor)
    keys: list[dict[str, Any] | None] = []
    for _, e in evaluators.alone:
        evaluator, inputs = f"{type(e).__module__}:{type(e).__qualname__}", e.inputs()
        keys.append(None if inputs is None else {**made_of, "evaluator": evaluator, "inputs": inputs})
    found: list[Metrics | None] = [_find(store, key) if key else None for key in keys]
    known = [name for (name, _), there in zip(evaluators.alone, found, strict=True) if there is not None]
    if None in found or evaluators.paired:
        with monitor.stage("Evaluate original") as progress:
            job = _opened(evaluators, opener, progress)
            for i, (item, key) in enumerate(zip(evaluators.alone, keys, strict=True)):
                if found[i] is None:
                    found[i] = measured = metrics([item], job)
                    if key:
                        _keep(store, key, measured)
    result: dict[str, Any] = {}
    for of_one in found:
        merge(result, of_one or {})
    return result, known


def evaluate_pair(
    evaluators: Evaluators, dense: Opener, pruned: Opener, monitor: Monitor
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics of evaluators that take two models: of both together, or apart where both do not fit in memory."""
    if not evaluators.paired:
        return {}, {}
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    with monitor.stage("Evaluate both") as progress:
        second = pruned(progress)
        _require(evaluators.paired, second)
        first = dense(progress)
        if first.model is not None or second.model is None:
            both = [evaluator.compare(first, second) for _, evaluator in evaluators.paired]
        else:
            monitor.say("The two models do not fit in memory together: they are measured one after the other.")
            del second, first
            openers = partial(dense, progress), partial(pruned, progress)
            both = [evaluator.apart(*openers) for _, evaluator in evaluators.paired]
        for found in both:
            merge(before, found[0])
            merge(after, found[1])
    return before, after


def metrics(evaluators: Sequence[tuple[str, Evaluator[Any]]], job: EvaluateJob) -> dict[str, Any]:
    """The metrics of one model. Raises EvaluationError if an evaluator needs resident weights and these are streamed."""
    _require(evaluators, job)
    result: dict[str, Any] = {}
    for _, evaluator in evaluators:
        merge(result, evaluator(job))
    return result


def _require(evaluators: Sequence[tuple[str, Evaluator[Any]]], job: EvaluateJob) -> None:
    for name, evaluator in evaluators:
        if job.model is None and evaluator.whole_model:
            raise EvaluationError.streamed(name)


def _opened(evaluators: Evaluators, opener: Opener, progress: Progress) -> EvaluateJob:
    """A model that suits all evaluators. Texts of the paired ones are checked here, because those measure at the end."""
    job = opener(progress)
    _require(evaluators.all, job)
    if job.rows is not None:
        for _, evaluator in evaluators.paired:
            evaluator.check_tokens(job.tokenizer, job.rows)
    return job


def merge(result: dict[str, Any], found: Mapping[str, Any]) -> None:
    """Add an evaluator's metrics; two may give the same metric for different names, but none replaces another's."""
    for metric, value in found.items():
        there = result.get(metric)
        if isinstance(there, dict) and isinstance(value, Mapping) and not there.keys() & value.keys():
            there.update(value)
        elif metric in result or metric in COSTS:
            raise RecipeError(f"evaluate: two measurements report the same '{metric}'. Remove one of them.")
        else:
            result[metric] = dict(value) if isinstance(value, Mapping) else value


def open_original(source: Source, recipe: Recipe, monitor: Monitor, store: Store, progress: Progress) -> EvaluateJob:
    """The original, from which many runs start: its job's `once` finds in the store what was measured before."""
    job = open_job(source.directory, source.layout, source.dtype, recipe, monitor, progress)
    return replace(job, once=partial(_once, store, _made_of(source, recipe)))


def _once(
    store: Store, made_of: Mapping[str, Any], inputs: Mapping[str, Any], measure: Callable[[], Metrics]
) -> Metrics:
    key = {**made_of, "inputs": inputs}
    if (found := _find(store, key)) is None:
        found = measure()
        _keep(store, key, found)
    return found


def _made_of(source: Source, recipe: Recipe) -> dict[str, Any]:
    tokenizer, (_, device) = tokenizer_digest(source.directory), placed(source.dtype, recipe.device)
    return {"model": source.fingerprint, "tokenizer": tokenizer, "dtype": source.dtype, "device": device}


def _find(store: Store, key: Mapping[str, Any]) -> Any:
    """Metrics that were kept, or None."""
    arrays = store.get("evaluation", key)
    return json.loads(arrays["metrics"].tobytes()) if arrays else None


def _keep(store: Store, key: Mapping[str, Any], found: Metrics) -> None:
    store.put("evaluation", key, {"metrics": np.frombuffer(json.dumps(found).encode(), dtype=np.uint8)})


def open_job(
    directory: Path, layout: Layout, dtype: str, recipe: Recipe, monitor: Monitor, progress: Progress
) -> EvaluateJob:
    """A checkpoint to measure, with resident or streamed weights."""
    from hgsp_core.checkpoint.load import load_tokenizer
    from hgsp_core.engine.likelihood import total_loss, window_logits

    weights = open_weights(directory, layout, dtype, recipe, monitor)
    return EvaluateJob(
        weights.model if weights.stays else None,
        load_tokenizer(directory),
        partial(total_loss, weights),
        recipe.calibrate.seed,
        progress,
        layout.vocabulary,
        partial(window_logits, weights),
    )
