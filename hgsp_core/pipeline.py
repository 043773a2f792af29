"""A pruning run, in order: Recipe -> Calibration -> Statistics -> Scores, Priors -> Plan -> pruned checkpoint -> Report.

Each stage is a function of the artifacts before it. What is costly to make is kept in the store under the hash of what it was
made from, so another ratio, temperature or normalizer finds its tokens and statistics there.

torch is imported where a stage needs it: a recipe that cannot work is refused before that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hgsp_core.allocate.run import Decision, decide, replan
from hgsp_core.artifacts import Plan
from hgsp_core.checkpoint.read import weight_bytes
from hgsp_core.data.run import calibration_texts
from hgsp_core.evaluate.run import (
    check_evaluable,
    evaluate_one,
    evaluate_pair,
    evaluate_source,
    open_evaluators,
    open_job,
    open_original,
)
from hgsp_core.export.contract import Exporter
from hgsp_core.export.run import check_exportable, check_exports, export, publish
from hgsp_core.recover.contract import Recoverer
from hgsp_core.recover.run import recover, recovery_work
from hgsp_core.repair.run import repair
from hgsp_core.report.contract import Pruned, Report
from hgsp_core.report.cost import costs
from hgsp_core.report.diagnosis import diagnose
from hgsp_core.report.facts import RunFacts
from hgsp_core.report.files import write_reports
from hgsp_core.runtime.directory import run_directory
from hgsp_core.runtime.measure import open_weights, placed
from hgsp_core.runtime.monitor import LogMonitor, Monitor, log
from hgsp_core.runtime.recipe import Recipe, load_recipe, parse_recipe, resolved
from hgsp_core.runtime.session import group, peak_memory, wait_for_all
from hgsp_core.runtime.source import checkpoint_layout, locate, open_model
from hgsp_core.runtime.store import Store, default_root
from hgsp_core.runtime.versions import versions


@dataclass(frozen=True)
class Forecast:
    """What a run would give, without cutting anything."""

    decision: Decision
    before: dict[str, int]
    after: dict[str, int]


def run(
    recipe: Recipe | Path | str,
    monitor: Monitor | None = None,
    store: Store | None = None,
    *,
    ratio: float | None = None,
    output: Path | str | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Report:
    """Prune by recipe and write the run directory. Returns the report, which is also its report.json.

    Started several times by `torchrun` or `accelerate launch`, the processes share the calibration set; only the first writes.

    Args:
        recipe: a recipe, or the path of its file.
        monitor: told of the progress; None: what it would say goes to the logger "hgsp".
        store: where tokens and statistics are kept; None: the default one, as on the command line.
        ratio, output: instead of the recipe's `allocate.with.ratio` and `output`.
        settings: dotted recipe key -> value, as `--set` has them.

    Raises:
        HgspError: everything that a user can mend; nothing is left where the run was to be.
    """
    recipe = asked_for(recipe, ratio, output, settings)
    monitor, store = monitor or LogMonitor(), store or Store(default_root())
    exporters, notes = [use.build(Exporter) for use in recipe.export], list[str]()
    check_exports(recipe.export)
    recoverer = recipe.recover.build(Recoverer) if recipe.recover else None
    with group() as first, run_directory(Path(recipe.output), first) as directory:
        log_settings(recipe)
        with monitor.stage("Evaluate (prepare)"):
            evaluators = open_evaluators(recipe.evaluate)
            check_evaluable(evaluators, recipe.model)
        if recoverer:
            with monitor.stage("Recover (prepare)"):
                recoverer.check(locate(recipe.model))
        needs_calibration = recoverer is not None and recoverer.needs_calibration
        expected = forecast(recipe, monitor, store, first, needs_calibration)
        decision, before, after = expected.decision, expected.before, expected.after
        source, dense = decision.source, decision.source.layout
        placed(source.dtype, recipe.device)  # the device is there, also where everything was found in the store

        kept = store if first else store.read_only()
        metrics, known = evaluate_source(evaluators, source, recipe, monitor, kept)
        before |= metrics
        from hgsp_core.checkpoint.on_disk import OnDisk

        repaired = OnDisk(directory / ".repaired")
        keep = repaired.keep if first else lambda tensors: None
        plan = repair(recipe, source, decision.plan, decision.calibration, monitor, keep)
        decision = replace(decision, plan=plan)
        checkpoint = directory / ".checkpoint"
        with monitor.stage("Cut") as progress:
            if first:
                from hgsp_core.runtime.cut import cut

                cut(source, plan, repaired, checkpoint, progress)
                repaired.remove()
            wait_for_all()
        recovery, work = None, None
        if recipe.recover and recoverer:
            calibration = decision.calibration
            work = recovery_work(store, recipe.recover, recipe.calibrate.seed, checkpoint, calibration)
            checkpoint, recovery = recover(recoverer, recipe, source, calibration, checkpoint, work, monitor, first)
        # a related family may have zero biases besides
        layout = checkpoint_layout(checkpoint, dense.architecture.model_type)
        original = partial(open_original, source, recipe, monitor, kept)
        smaller = partial(open_job, checkpoint, layout, source.dtype, recipe, monitor)
        after |= evaluate_one(evaluators, smaller, "Evaluate pruned", monitor)
        both = evaluate_pair(evaluators, original, smaller, monitor)
        before, after = before | both[0], after | both[1]
        wait_for_all()
        pruned: Pruned = {
            "recipe": resolved(recipe).model_dump(mode="json"),
            "calibration": decision.calibration.describe() if decision.calibration else None,
            "before": before,
            "after": after | {"bytes": weight_bytes(checkpoint)},
            "recovery": recovery,
            "predicted_kl": decision.predicted_kl,
            "reused_seconds": decision.saved,
            "reused": [*decision.reused, *(f"{name} of the original" for name in known)],
        }
        exports: list[str] = []
        if first and exporters:
            with monitor.stage("Export") as progress:
                weights = open_weights(checkpoint, layout, source.dtype, recipe, LogMonitor())
                exports = export(
                    exporters, checkpoint, directory, plan, weights, progress, notes.append, pruned, source.directory
                )
        report: Report = {
            **pruned,
            "notes": [*plan.notes, *notes],
            "exports": exports,
            "timings": dict(monitor.timings),
            "peak_memory_bytes": peak_memory(),
            "versions": versions(),
        }
        wait_for_all()
        if first:
            shutil.rmtree(checkpoint)
            with monitor.stage("Report"):
                write_run_files(directory, recipe, decision, report)
    if first and work:
        shutil.rmtree(work, ignore_errors=True)  # the training's checkpoints, which only a run that is killed needs
    if first:
        publish(exporters, exports, Path(recipe.output), monitor)
    return report


def plan(
    recipe: Recipe | Path | str,
    monitor: Monitor | None = None,
    store: Store | None = None,
    *,
    ratio: float | None = None,
    output: Path | str | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Forecast:
    """What `run` would remove, and what the model would cost then: measures, cuts nothing, writes nothing but the store.

    Takes and raises what `run` does.
    """
    recipe = asked_for(recipe, ratio, output, settings)
    return forecast(recipe, monitor or LogMonitor(), store or Store(default_root()))


def asked_for(
    recipe: Recipe | Path | str, ratio: float | None, output: Path | str | None, settings: Mapping[str, Any]
) -> Recipe:
    """The recipe with what is to be different. Raises RecipeError."""
    changes = dict(settings)
    changes |= {} if ratio is None else {"allocate.with.ratio": ratio}
    changes |= {} if output is None else {"output": str(output)}
    overrides = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, overrides)
    return parse_recipe(recipe.to_yaml(), "the recipe", overrides) if overrides else recipe


def forecast(
    recipe: Recipe, monitor: Monitor, store: Store, first: bool = True, needs_calibration: bool = False
) -> Forecast:
    """Measure and plan; cut nothing and write nothing but the store (only where this process is the `first`).

    needs_calibration: whether something after the plan needs the calibration set.
    """
    texts = calibration_texts(recipe.calibrate)
    with monitor.stage("Read model"):
        source = open_model(recipe.model)
        check_exportable(recipe.export, source.directory, source.layout)
    decision = decide(recipe, source, texts, monitor, store if first else store.read_only(), needs_calibration)
    layout, plan = source.layout, decision.plan
    check_exportable(recipe.export, source.directory, plan.layout_after(layout))
    context, size = recipe.calibrate.seq_len, source.bytes_per_parameter
    before = costs(layout, Plan.keep_all(layout), context, size) | {"bytes": weight_bytes(source.directory)}
    return Forecast(decision, before, costs(layout, plan, context, size))


def log_settings(recipe: Recipe) -> None:
    """Every setting of the run, defaults included, as lines of run.log."""
    for line in resolved(recipe).to_yaml().splitlines():
        log.info("recipe: %s", line)


def write_run_files(directory: Path, recipe: Recipe, decision: Decision, report: Report) -> None:
    """The files of a run apart from the model itself."""
    source, plan = decision.source, decision.plan
    diagnosis = diagnose(
        recipe,
        source.layout,
        plan,
        decision.scores,
        decision.scales,
        replan(decision),
        decision.predicted_kl is not None,
    )
    facts = RunFacts(recipe, source.layout, plan, decision.scores, decision.priors, report, diagnosis)
    write_reports(directory, facts, source.name, source.fingerprint)
