"""A pruning run, in order: Recipe -> Calibration -> Statistics -> Scores, Priors -> Plan -> pruned checkpoint -> Report.

Each stage is a function of the artifacts before it. What is costly to make is kept in the store under the hash of what it was
made from, so another ratio, temperature or normalizer finds its tokens and statistics there.
"""

from __future__ import annotations

import json
import platform
import resource
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Iterable, Sequence

import numpy as np

from hgsp_core import data, plugins
from hgsp_core.artifacts import Calibration, Plan, Priors, Scores, Statistics
from hgsp_core.checkpoint.read import tokenizer_digest, weight_bytes
from hgsp_core.errors import PlanError
from hgsp_core.layout import Layout
from hgsp_core.monitor import Monitor
from hgsp_core.recipe import Recipe, Use
from hgsp_core.report.cost import costs
from hgsp_core.report.files import write_reports
from hgsp_core.rundir import run_directory
from hgsp_core.source import Source, open_model
from hgsp_core.store import Store
from hgsp_core.types import AllocateJob, EvaluateJob, ExportJob, LayerJob, NormalizeJob, PriorJob, ScoreJob


@dataclass(frozen=True)
class Decision:
    """Everything up to the plan. `calibration` is None where nothing that was measured needed data."""

    source: Source
    calibration: Calibration | None
    scores: Scores
    priors: Priors | None
    plan: Plan
    reused: tuple[str, ...]


@dataclass(frozen=True)
class Forecast:
    """What a run would give, without cutting anything."""

    decision: Decision
    before: dict[str, int]
    after: dict[str, int]


def run(recipe: Recipe, monitor: Monitor, store: Store) -> dict[str, Any]:
    """Prune by recipe and write the run directory. Returns the report, which is also its report.json."""
    evaluators = [_build("evaluator", use) for use in recipe.evaluate]
    exporters = [_build("exporter", use) for use in recipe.export]
    with run_directory(Path(recipe.output)) as directory:
        decision = decide(recipe, monitor, store)
        source, plan = decision.source, decision.plan
        before = costs(source.layout, Plan.keep_all(source.layout), recipe.calibrate.seq_len, source.bytes_per_parameter)
        after = costs(source.layout, plan, recipe.calibrate.seq_len, source.bytes_per_parameter)
        if evaluators:
            before |= evaluate(evaluators, source.directory, source.dtype, recipe, "Evaluate dense", monitor)
        with monitor.stage("Cut"):
            checkpoint = cut(recipe, source, plan, directory / "checkpoint")
        if evaluators:
            after |= evaluate(evaluators, checkpoint, source.dtype, recipe, "Evaluate pruned", monitor)
        with monitor.stage("Export"):
            exports = export(exporters, checkpoint, directory, plan)
        before["bytes"], after["bytes"] = weight_bytes(source.directory), weight_bytes(checkpoint)
        report = {
            "recipe": recipe.model_dump(mode="json"),
            "calibration": decision.calibration and decision.calibration.describe(),
            "before": before,
            "after": after,
            "reused": list(decision.reused),
            "notes": list(plan.notes),
            "exports": exports,
            "timings": dict(monitor.timings),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "versions": versions(),
        }
        write_reports(directory, recipe, source.layout, plan, decision.scores, decision.priors, report)
    return report


def forecast(recipe: Recipe, monitor: Monitor, store: Store) -> Forecast:
    """Measure and plan; cut nothing and write nothing but the store."""
    decision = decide(recipe, monitor, store)
    layout, size = decision.source.layout, decision.source.bytes_per_parameter
    return Forecast(
        decision,
        costs(layout, Plan.keep_all(layout), recipe.calibrate.seq_len, size),
        costs(layout, decision.plan, recipe.calibrate.seq_len, size),
    )


def decide(recipe: Recipe, monitor: Monitor, store: Store) -> Decision:
    """All that comes before the cut: calibration, statistics, scores, priors, plan."""
    scorer, allocator = _build("scorer", recipe.score), _build("allocator", recipe.allocate)
    prior = _build("prior", recipe.prior) if allocator.needs_priors else None
    normalizers = [_build("normalizer", use) for use in recipe.normalize]
    reconstructor = _build("reconstructor", recipe.reconstruct)
    collectors = {c.key: c for method in (scorer, prior, reconstructor) if method for c in method.collectors}

    with monitor.stage("Read model"):
        source = open_model(recipe.model)
    reused: list[str] = []
    calibration = None
    if any(c.needs_tokens for c in collectors.values()):
        with monitor.stage("Calibrate"):
            calibration = calibrate(recipe, source, store, reused)
    statistics = measure(recipe, source, calibration, list(collectors.values()), monitor, store, reused)
    for name in reused:
        monitor.say(f"Reused from the store: {name}")

    with monitor.stage("Plan"):
        scores = scorer(ScoreJob(source.layout, statistics, recipe.calibrate.seed))
        for normalizer in normalizers:
            scores = normalizer(NormalizeJob(source.layout, scores))
        _finite(scores, source.layout)
        priors = prior(PriorJob(source.layout, statistics)) if prior else None
        plan = allocator(AllocateJob(source.layout, scores, priors))
    return Decision(source, calibration, scores, priors, plan, tuple(reused))


def calibrate(recipe: Recipe, source: Source, store: Store, reused: list[str]) -> Calibration:
    """The run's tokens. Their key holds the text itself, so a changed file or dataset is never served from the store."""
    part = recipe.calibrate
    text = data.calibration_text(part.dataset, part.with_, part.samples, part.seq_len)
    inputs = {
        "text": data.digest(text),
        "tokenizer": tokenizer_digest(source.directory),
        "samples": part.samples,
        "seq_len": part.seq_len,
        "seed": part.seed,
    }
    if kept := store.get("calibration", inputs):
        reused.append("calibration")
        return Calibration(part.dataset, part.seed, kept["tokens"])
    tokenizer = _load_tokenizer(source.directory)
    calibration = data.draw(text, tokenizer, part.dataset, part.samples, part.seq_len, part.seed)
    store.put("calibration", inputs, {"tokens": calibration.tokens})
    return calibration


def measure(
    recipe: Recipe,
    source: Source,
    calibration: Calibration | None,
    collectors: Sequence[Any],
    monitor: Monitor,
    store: Store,
    reused: list[str],
) -> Statistics:
    """What the methods asked for, from the store where it is there and from one sweep for all the rest."""
    inputs = {
        c.key: {
            "model": source.fingerprint,
            "dtype": source.dtype,
            "tokens": calibration.sha256 if c.needs_tokens else None,
            "collector": c.key,
        }
        for c in collectors
    }
    values = {c.key: _unpack(kept) for c in collectors if (kept := store.get("statistics", inputs[c.key]))}
    reused += [f"statistics {key}" for key in values]
    missing = [c for c in collectors if c.key not in values]
    if missing:
        from hgsp_core.sweep import Resident, run_sweep

        with monitor.stage("Load"):
            model = _load_model(source.directory, source.dtype, recipe.device)
        with monitor.stage("Sweep") as progress:
            tokens = calibration.tokens if calibration else None
            measured = run_sweep(
                Resident(model, source.layout), source.layout, tokens, missing, recipe.calibrate.batch_size, progress
            )
        for c in missing:
            values[c.key] = measured[c]
            store.put("statistics", inputs[c.key], _pack(measured[c]))
    return Statistics(values)


def cut(recipe: Recipe, source: Source, plan: Plan, statistics: Statistics, destination: Path) -> Path:
    """Write the pruned checkpoint, one layer in memory at a time."""
    from hgsp_core.checkpoint.config import pruned_config
    from hgsp_core.checkpoint.write import write_checkpoint
    from hgsp_core.surgery import prune_tensors

    repaired = _repaired(_build("reconstructor", recipe.reconstruct), source, plan, statistics)
    write_checkpoint(prune_tensors(repaired, source.layout, plan), pruned_config(source.layout, plan), source.directory, destination)
    return destination
