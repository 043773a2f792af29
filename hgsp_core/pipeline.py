"""A pruning run, in order: Recipe -> Calibration -> Statistics -> Scores, Priors -> Plan -> pruned checkpoint -> Report.

Each stage is a function of the artifacts before it. What is costly to make is kept in the store under the hash of what it was
made from, so another ratio, temperature or normalizer finds its tokens and statistics there.

torch is imported where a stage needs it: a recipe that cannot work is refused before that.
"""

from __future__ import annotations

import platform
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hgsp_core.allocate.contract import AllocateJob
from hgsp_core.allocate.judgement import StoredJudge
from hgsp_core.artifacts import Calibration, Plan, Priors, Scores
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.checkpoint.fingerprint import fingerprint
from hgsp_core.checkpoint.read import tokenizer_digest, weight_bytes
from hgsp_core.data.calibrate import calibrate
from hgsp_core.data.run import open_dataset
from hgsp_core.errors import NumericError, RecipeError
from hgsp_core.evaluate.contract import EvaluateJob
from hgsp_core.evaluate.run import (
    Evaluators,
    check_evaluable,
    evaluate_one,
    evaluate_original,
    evaluate_pair,
    open_evaluators,
)
from hgsp_core.export.run import check_exportable, export, publish
from hgsp_core.files.json_files import write_json
from hgsp_core.model.layout import Layout
from hgsp_core.plugin import registry
from hgsp_core.process.launched import launched
from hgsp_core.recover.contract import RecoverJob
from hgsp_core.report.cost import costs
from hgsp_core.report.diagnosis import Replan, Scales, diagnose
from hgsp_core.report.facts import RunFacts
from hgsp_core.report.files import write_reports
from hgsp_core.run.directory import run_directory
from hgsp_core.run.measure import Reused, gradient_scale, measure, open_weights, placed
from hgsp_core.run.monitor import LogMonitor, Monitor, Progress, log
from hgsp_core.run.recipe import ModelPart, Recipe, Use, resolved, resolved_use
from hgsp_core.run.source import Source, checkpoint_layout, locate, open_model
from hgsp_core.run.store import Store, key_of
from hgsp_core.run.versions import versions
from hgsp_core.score.contract import NormalizeJob, PriorJob, ScoreJob

#: bytes of a weight file
MIN_SHARD, MAX_SHARD = 2 * 10**7, 5 * 10**9


@dataclass(frozen=True)
class Decision:
    """Everything up to the plan. `calibration` is None where nothing that was measured needed data.

    saved     seconds that it took once to measure what was found in the store
    measured  the scores of the original model before normalizers;  scales  how large its gradients are in each layer
    judge     what a search asked; None where the allocator does not search
    """

    source: Source
    calibration: Calibration | None
    scores: Scores
    priors: Priors | None
    plan: Plan
    reused: tuple[str, ...]
    saved: float
    measured: Scores
    scales: Scales
    judge: StoredJudge | None


@dataclass(frozen=True)
class Methods:
    """The methods of a recipe that decide what stays. One allocator for each iterative step; no prior where none is asked for.

    collectors    what they ask to be measured, together;  scale  the one among them that sees how large gradients are, or None
    needs_tokens  whether any of it needs the calibration tokens
    """

    scorer: Any
    normalizers: Sequence[Any]
    prior: Any
    allocators: Sequence[Any]
    collectors: tuple[Any, ...]
    scale: Any
    needs_tokens: bool


@dataclass(frozen=True)
class Forecast:
    """What a run would give, without cutting anything."""

    decision: Decision
    before: dict[str, int]
    after: dict[str, int]


def run(recipe: Recipe, monitor: Monitor, store: Store) -> dict[str, Any]:
    """Prune by recipe and write the run directory. Returns the report, which is also its report.json.

    Started several times by `torchrun` or `accelerate launch`, the processes share the calibration set; only the first writes.
    """
    exporters, notes = [_build("exporter", use) for use in recipe.export], []
    check_exports(recipe.export)
    recoverer = _build("recoverer", recipe.recover) if recipe.recover else None
    with group() as first, run_directory(Path(recipe.output), first) as directory:
        log_settings(recipe)
        with monitor.stage("Evaluate (prepare)"):
            evaluators = open_evaluators(recipe.evaluate)
            check_evaluable(evaluators, recipe.model)
        if recoverer:
            with monitor.stage("Recover (prepare)"):
                check_recoverable(recoverer, recipe.model)
        expected = forecast(recipe, monitor, store, first)
        decision, before, after = expected.decision, expected.before, expected.after
        source, dense = decision.source, decision.source.layout
        placed(source.dtype, recipe.device)  # the device is there, also where everything was found in the store

        original = partial(open_job, source.directory, dense, source.dtype, recipe, monitor)
        metrics, known = evaluate_source(evaluators, source, recipe, monitor, store if first else store.read_only())
        before |= metrics
        from hgsp_core.checkpoint.on_disk import OnDisk

        repaired = OnDisk(directory / ".repaired")
        plan = repair(recipe, decision, monitor, repaired.keep if first else lambda tensors: None)
        decision = replace(decision, plan=plan)
        checkpoint = directory / ".checkpoint"
        with monitor.stage("Cut") as progress:
            if first:
                cut(decision, repaired, checkpoint, progress)
                repaired.remove()
            wait_for_all()
        recovery, work = None, None
        if recoverer:
            work = recovery_work(store, recipe.recover, recipe.calibrate.seed, checkpoint)
            checkpoint, recovery = recover(recoverer, recipe, decision, checkpoint, work, monitor, first)
        pruned = checkpoint_layout(
            checkpoint, dense.architecture.model_type
        )  # a related family may have zero biases besides
        smaller = partial(open_job, checkpoint, pruned, source.dtype, recipe, monitor)
        after |= evaluate_one(evaluators, smaller, "Evaluate pruned", monitor)
        both = evaluate_pair(evaluators, original, smaller, monitor)
        before, after = before | both[0], after | both[1]
        wait_for_all()
        report = {
            "recipe": resolved(recipe).model_dump(mode="json"),
            "calibration": decision.calibration and decision.calibration.describe(),
            "before": before,
            "after": after | {"bytes": weight_bytes(checkpoint)},
            "recovery": recovery,
            "reused_seconds": decision.saved,
            "reused": [*decision.reused, *(f"{name} of the original" for name in known)],
        }
        exports: list[str] = []
        if first and exporters:
            with monitor.stage("Export") as progress:
                weights = open_weights(checkpoint, pruned, source.dtype, recipe, LogMonitor())
                exports = export(
                    exporters, checkpoint, directory, plan, weights, progress, notes.append, report, source.directory
                )
        report |= {
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


def check_exports(uses: Sequence[Use]) -> None:
    """No two exports write to the same folder. Raises RecipeError."""
    seen: set[tuple[str, Any]] = set()
    for index, use in enumerate(uses):
        target = (use.use, use.with_.get("directory"))
        if target in seen:
            raise RecipeError(f"export.{index}: '{use.use}' is to write to the same folder twice; leave one out.")
        seen.add(target)


def check_recoverable(recoverer: Any, model: ModelPart) -> None:
    """A recoverer that can tell beforehand refuses a model that it cannot train. Raises HgspError, the recoverer's."""
    if hasattr(recoverer, "check"):
        recoverer.check(locate(model))


def forecast(recipe: Recipe, monitor: Monitor, store: Store, first: bool = True) -> Forecast:
    """Measure and plan; cut nothing and write nothing but the store (only where this process is the `first`)."""
    decision = decide(recipe, monitor, store if first else store.read_only())
    layout = decision.source.layout
    check_exportable(recipe.export, decision.source.directory, decision.plan.layout_after(layout))
    context, size = recipe.calibrate.seq_len, decision.source.bytes_per_parameter
    before = costs(layout, Plan.keep_all(layout), context, size) | {"bytes": weight_bytes(decision.source.directory)}
    return Forecast(decision, before, costs(layout, decision.plan, context, size))


def decide(recipe: Recipe, monitor: Monitor, store: Store) -> Decision:
    """All that comes before the cut: calibration, statistics, scores, priors, plan.

    With `iterative_steps` the last three are repeated, each time on the model that the plan before leaves.
    """
    dataset = open_dataset(recipe.calibrate.dataset, recipe.calibrate.with_, "calibrate.dataset")
    with monitor.stage("Read model"):
        source = open_model(recipe.model)
        check_exportable(recipe.export, source.directory, source.layout)

    methods = methods_of(recipe)
    scorer, prior, scale = methods.scorer, methods.prior, methods.scale

    reused: Reused = {}
    calibration = None
    if methods.needs_tokens:
        with monitor.stage("Calibrate"):
            calibration = calibrate(recipe.calibrate, dataset, source, store, reused)
    judge = None
    if held_out := getattr(methods.allocators[0], "held_out", None):
        windows = max(held_out(source.layout, len(calibration.tokens)), launched())
        judge = StoredJudge(recipe, source, calibration, windows, monitor, store)
    plan = None
    for allocator in methods.allocators:
        statistics = measure(recipe, source, calibration, methods.collectors, monitor, store, reused, plan)
        with monitor.stage("Plan") as progress:
            scores = scorer(ScoreJob(source.layout, statistics, recipe.calibrate.seed))
            if plan is None:
                measured, scales = scores, Scales.of_gradients(statistics[scale]) if scale else Scales.of_scores(scores)
            scores = normalized(scores, methods.normalizers, source.layout)
            priors = prior(PriorJob(source.layout, statistics)) if prior else None
            if plan:
                scores = scores.last(plan)
            previous, plan = plan, allocator(AllocateJob(source.layout, scores, priors, judge, progress, plan))
            if previous and not plan.within(previous):
                raise PlanError.given_back(recipe.allocate.use)
    if judge:
        judge.release()
    for name in reused:
        monitor.say(f"Reused from the store: {name}")
    saved = sum(reused.values()) + (judge.saved if judge else 0.0)
    return Decision(source, calibration, scores, priors, plan, tuple(reused), saved, measured, scales, judge)


def methods_of(recipe: Recipe) -> Methods:
    """The methods that decide what stays, ready to be called."""
    scorer, allocators = _build("scorer", recipe.score), _allocators(recipe)
    normalizers = [_build("normalizer", use) for use in recipe.normalize]
    prior = _build("prior", recipe.prior) if allocators[0].needs_priors else None
    collectors = {c.key: c for method in (scorer, prior) if method for c in method.collectors}
    scale = gradient_scale(collectors.values())
    collectors |= {scale.key: scale} if scale else {}
    repaired, judged = _build("reconstructor", recipe.reconstruct).targets, hasattr(allocators[0], "held_out")
    needs_tokens = repaired or judged or any(c.needs_tokens for c in collectors.values())
    return Methods(scorer, normalizers, prior, allocators, tuple(collectors.values()), scale, bool(needs_tokens))


def normalized(scores: Scores, normalizers: Sequence[Any], layout: Layout) -> Scores:
    """The scores after every normalizer, in order."""
    for normalizer in normalizers:
        scores = normalizer(NormalizeJob(layout, scores))
    return scores


def replan(decision: Decision) -> Replan:
    """Plans of other recipes from what was measured for this one: nothing is measured, and nothing is written."""

    def planned(recipe: Recipe) -> tuple[Scores, Plan]:
        layout = decision.source.layout
        scores = normalized(decision.measured, [_build("normalizer", use) for use in recipe.normalize], layout)
        return scores, _build("allocator", recipe.allocate)(AllocateJob(layout, scores, decision.priors))

    return planned


def _allocators(recipe: Recipe) -> list[Any]:
    """One for each iterative step; the ratio grows evenly up to the one asked for."""
    steps = recipe.iterative_steps
    if steps == 1:
        return [_build("allocator", recipe.allocate)]
    params = registry.installed().find("allocator", recipe.allocate.use).method.params(**recipe.allocate.with_)
    if not hasattr(params, "ratio"):
        raise PlanError.no_ratio(recipe.allocate.use)
    return [
        registry.build(
            "allocator", recipe.allocate.use, {**recipe.allocate.with_, "ratio": params.ratio * step / steps}
        )
        for step in range(1, steps + 1)
    ]


def repair(recipe: Recipe, decision: Decision, monitor: Monitor, keep: Callable[[Mapping[str, Any]], None]) -> Plan:
    """The plan as the reconstructor leaves it, block by block on the model pruned so far; `keep` gets what it changes."""
    reconstructor = _build("reconstructor", recipe.reconstruct)
    if not reconstructor.targets:
        return decision.plan
    from hgsp_core.repair.sequential import repair as sweep

    with monitor.stage("Repair") as progress:
        source = decision.source
        weights = open_weights(source.directory, source.layout, source.dtype, recipe, monitor)
        tokens, batch_size = decision.calibration.tokens, recipe.calibrate.batch_size
        return sweep(weights, decision.plan, reconstructor, tokens, batch_size, keep, progress)


def cut(decision: Decision, repaired: Any, destination: Path, progress: Progress) -> Path:
    """Write the pruned checkpoint, one layer in memory at a time."""
    import torch

    from hgsp_core.checkpoint.config import pruned_config
    from hgsp_core.checkpoint.rehouse import housed_tensors
    from hgsp_core.checkpoint.shards import read_tensors
    from hgsp_core.checkpoint.write import write_checkpoint
    from hgsp_core.engine.memory import free_bytes
    from hgsp_core.surgery import prune_tensors

    source, layout, plan = decision.source, decision.source.layout, decision.plan

    def tensors() -> Iterator[tuple[str, Any]]:
        dtype, _ = placed(source.dtype, "cpu")
        for name, tensor in read_tensors(source.directory, layout.outside, dtype):
            yield name, _finite(name, repaired.get(name, tensor))
        for layer in layout.layers:
            names = [name for block in layer.blocks.values() for name in block.tensors()]
            for name, tensor in read_tensors(source.directory, names, dtype):
                yield name, _finite(name, repaired.get(name, tensor))
            progress(layer.index + 1, len(layout.layers))

    config = pruned_config(layout, plan)
    pruned = housed_tensors(prune_tensors(tensors(), layout, plan), layout, config)
    shard = min(MAX_SHARD, max(free_bytes(torch.device("cpu")) // 8, MIN_SHARD))  # a shard is collected in memory
    size = plan.parameters_after(layout) * source.bytes_per_parameter
    write_checkpoint(pruned, config, source.directory, destination, shard, size)
    return destination


def _finite(name: str, tensor: Any) -> Any:
    """The tensor. Raises NumericError where it holds NaN or infinity: no sweep may have looked at it."""
    if not tensor.isfinite().all():
        raise NumericError.weight(name)
    return tensor


def recover(
    recoverer: Any, recipe: Recipe, decision: Decision, checkpoint: Path, work: Path, monitor: Monitor, first: bool
) -> tuple[Path, dict[str, Any] | None]:
    """The checkpoint after training, and what the recoverer tells of it; `checkpoint` is gone then."""
    source, recovered = decision.source, checkpoint.with_name(".recovered")
    _, device = placed(source.dtype, recipe.device)
    seed, architecture = recipe.calibrate.seed, source.layout.architecture
    with monitor.stage("Recover") as progress:
        told = call_recoverer(
            recoverer,
            RecoverJob(
                checkpoint,
                recovered,
                decision.calibration,
                seed,
                architecture,
                source.directory,
                device,
                work,
                progress,
            ),
            first,
        )
        if first:
            shutil.rmtree(checkpoint)
        wait_for_all()
    return recovered, told


def call_recoverer(recoverer: Any, job: RecoverJob, first: bool) -> dict[str, Any] | None:
    """What the recoverer tells, in the first process; every process returns when `job.destination` is there."""
    told = recoverer(job) if first or getattr(recoverer, "parallel", False) else None
    wait_for_all()
    return told


def recovery_work(store: Store, use: Use, seed: int, checkpoint: Path) -> Path:
    """The directory for the checkpoints of a training: in the store, so that a run finds those of one that was killed."""
    inputs = {
        "model": fingerprint(checkpoint),
        "recover": resolved_use("recoverer", use).model_dump(mode="json"),
        "seed": seed,
        "processes": launched(),
    }
    return store.root / "recovery" / key_of(inputs)


def evaluate_source(
    evaluators: Evaluators, source: Source, recipe: Recipe, monitor: Monitor, store: Store
) -> tuple[dict[str, Any], list[str]]:
    """The metrics of the original, and the names of the evaluators whose metrics were found in the store."""
    tokenizer, (_, device) = tokenizer_digest(source.directory), placed(source.dtype, recipe.device)
    made_of = {"model": source.fingerprint, "tokenizer": tokenizer, "dtype": source.dtype, "device": device}
    opener = partial(open_job, source.directory, source.layout, source.dtype, recipe, monitor)
    return evaluate_original(evaluators, opener, made_of, store, monitor)


def open_job(
    directory: Path, layout: Layout, dtype: str, recipe: Recipe, monitor: Monitor, progress: Progress
) -> EvaluateJob:
    """A checkpoint to measure, its weights loaded whole or streamed."""
    from hgsp_core.checkpoint.load import load_tokenizer
    from hgsp_core.engine.likelihood import total_loss

    weights = open_weights(directory, layout, dtype, recipe, monitor)
    model, loss = weights.model if weights.stays else None, partial(total_loss, weights)
    return EvaluateJob(model, load_tokenizer(directory), loss, recipe.calibrate.seed, progress, layout.vocabulary)


def log_settings(recipe: Recipe) -> None:
    """Every setting of the run, defaults included, as lines of run.log."""
    for line in resolved(recipe).to_yaml().splitlines():
        log.info("recipe: %s", line)


def write_run_files(directory: Path, recipe: Recipe, decision: Decision, report: dict[str, Any]) -> None:
    """The files of a run apart from the model itself."""
    source, plan = decision.source, decision.plan
    (directory / "recipe.yaml").write_text(resolved(recipe).to_yaml(), encoding="utf-8")
    write_json(directory / "plan.json", plan.to_json(source.layout, source.name, source.fingerprint))
    again = None if decision.judge else replan(decision)  # a search is too costly to repeat for each possible repair
    diagnosis = diagnose(recipe, source.layout, plan, decision.scores, decision.scales, again)
    facts = RunFacts(recipe, source.layout, plan, decision.scores, decision.priors, report, diagnosis)
    write_reports(directory, facts)
    write_json(directory / "report.json", report)


def peak_memory() -> int:
    """Largest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage, on Linux, counts what started this process, too, as large as it was then
        found = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if found:
            return int(found[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def _build(kind: str, use: Use) -> Any:
    return registry.build(kind, use.use, use.with_)


@contextmanager
def group() -> Iterator[bool]:
    """Joins the processes that a launcher started, if one did; yields whether this is the first of them."""
    if launched() == 1:
        yield True
        return
    from hgsp_core.engine.parallel import joined, rank

    with joined():
        yield rank() == 0


def wait_for_all() -> None:
    """Returns when every process of the group has come here; at once where there is one."""
    if launched() > 1:
        from torch import distributed

        distributed.barrier()
