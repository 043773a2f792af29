"""From calibration to plan: everything that is decided before a weight is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import TYPE_CHECKING, Any

from hgsp_core.allocate.contract import AllocateJob, Allocator
from hgsp_core.allocate.judgement import StoredJudge
from hgsp_core.artifacts import Calibration, Plan, Priors, Scores
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.artifacts.scales import Scales
from hgsp_core.data.calibrate import calibrate
from hgsp_core.data.contract import Dataset
from hgsp_core.engine.launched import launched
from hgsp_core.model.layout import Layout
from hgsp_core.plugin import registry
from hgsp_core.repair.contract import Reconstructor
from hgsp_core.runtime.measure import Reused, gradient_scale, measure
from hgsp_core.runtime.monitor import Monitor
from hgsp_core.runtime.recipe import Recipe, resolved_use
from hgsp_core.runtime.source import Source
from hgsp_core.runtime.store import Store
from hgsp_core.score.contract import NormalizeJob, Normalizer, Prior, PriorJob, ScoreJob, Scorer

if TYPE_CHECKING:
    from hgsp_core.engine.collectors import Collector


#: predicted KL divergence in nats a token from which on a user is warned before anything is cut
FAR = 1.0


@dataclass(frozen=True)
class Decision:
    """Everything up to the plan. `calibration` is None where nothing that was measured needed data.

    saved     seconds that it took once to measure what was found in the store
    measured  the scores of the original model before normalizers;  scales  how large its gradients are in each layer
    judge     what a search asked; None where the allocator does not search
    predicted_kl  KL divergence between the original and the pruned model, in nats a token; None where scores do not tell
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
    predicted_kl: float | None


@dataclass(frozen=True)
class Methods:
    """The methods of a recipe that decide what stays. One allocator for each iterative step; no prior where none is asked for.

    collectors    what they ask to be measured, together;  scale  the one among them that sees how large gradients are, or None
    held_out      windows of the calibration set that judge plans; 0 = none do
    needs_tokens  whether any of it needs the calibration tokens
    """

    scorer: Scorer[Any]
    normalizers: Sequence[Normalizer[Any]]
    prior: Prior[Any] | None
    allocators: Sequence[Allocator[Any]]
    collectors: tuple[Collector, ...]
    scale: Collector | None
    held_out: int
    needs_tokens: bool


def decide(
    recipe: Recipe,
    source: Source,
    dataset: Dataset[Any],
    monitor: Monitor,
    store: Store,
    needs_calibration: bool = False,
) -> Decision:
    """All that comes before the cut: calibration, statistics, scores, priors, plan.

    With `iterative_steps` the last three are repeated, each time on the model that the plan before leaves.
    """
    methods = methods_of(recipe, source.layout)
    scorer, prior, scale = methods.scorer, methods.prior, methods.scale

    reused: Reused = {}
    calibration = None
    if methods.needs_tokens or needs_calibration:
        with monitor.stage("Calibrate"):
            calibration = calibrate(recipe.calibrate, dataset, source, store, reused)
    judge = None
    if methods.held_out:
        assert calibration is not None  # `needs_tokens` sees to it
        windows = max(methods.held_out, launched())
        judge = StoredJudge(recipe, source, calibration, windows, monitor, store)
    decided: Decision | None = None
    for allocator in methods.allocators:
        previous = decided.plan if decided else None
        statistics = measure(recipe, source, calibration, methods.collectors, monitor, store, reused, previous)
        with monitor.stage("Plan") as progress:
            measured = scorer(ScoreJob(source.layout, statistics, recipe.calibrate.seed))
            scores = normalized(measured, methods.normalizers, source.layout)
            priors = prior(PriorJob(source.layout, statistics)) if prior else None
            if previous:
                scores = scores.last(previous)
            plan = allocator(AllocateJob(source.layout, scores, priors, judge, progress, previous))
            if previous and not plan.within(previous):
                raise PlanError.given_back(recipe.allocate.use)
        if decided:
            decided = replace(decided, scores=scores, priors=priors, plan=plan)
        else:
            scales = Scales.of_gradients(statistics[scale]) if scale else Scales.of_scores(measured)
            predicted = measured.removed(plan) if scorer.in_nats and recipe.iterative_steps == 1 else None
            if predicted is not None and predicted > FAR:
                plan = replace(plan, notes=(*plan.notes, _far(predicted, recipe)))
                monitor.say(plan.notes[-1])
            decided = Decision(source, calibration, scores, priors, plan, (), 0.0, measured, scales, judge, predicted)
    assert decided is not None  # there is at least one step
    if judge:
        judge.release()
    for name in reused:
        monitor.say(f"Reused from the store: {name}")
    saved = sum(reused.values()) + (judge.saved if judge else 0.0)
    return replace(decided, reused=tuple(reused), saved=saved)


def _far(predicted: float, recipe: Recipe) -> str:
    """The warning before a model is cut of which little is left."""
    return (
        f"Warning: a KL divergence of {predicted:.2f} nats per token is predicted, a perplexity {exp(predicted):.1f} times that "
        f"of the original. Lower allocate.with.ratio ({recipe.allocate.with_.get('ratio', 'its default')}), or train after "
        "pruning (recover)."
    )


def methods_of(recipe: Recipe, layout: Layout) -> Methods:
    """The methods that decide what is kept, ready to be called."""
    scorer, allocators = recipe.score.build(Scorer), _allocators(recipe)
    normalizers = [use.build(Normalizer) for use in recipe.normalize]
    prior = recipe.prior.build(Prior) if allocators[0].needs_priors else None
    collectors = {c.key: c for method in (scorer, prior) if method for c in method.collectors}
    scale = gradient_scale(collectors.values())
    collectors |= {scale.key: scale} if scale else {}
    held_out = allocators[0].held_out(layout, recipe.calibrate.samples)
    repaired = bool(recipe.reconstruct.build(Reconstructor).targets)
    needs_tokens = repaired or held_out > 0 or any(c.needs_tokens for c in collectors.values())
    return Methods(scorer, normalizers, prior, allocators, tuple(collectors.values()), scale, held_out, needs_tokens)


def normalized(scores: Scores, normalizers: Sequence[Normalizer[Any]], layout: Layout) -> Scores:
    """The scores after every normalizer, in order."""
    for normalizer in normalizers:
        scores = normalizer(NormalizeJob(layout, scores))
    return scores


def replan(decision: Decision) -> Callable[[Recipe], tuple[Scores, Plan]]:
    """Plans of other recipes from what was measured for this one: nothing is measured, and nothing is written."""

    def planned(recipe: Recipe) -> tuple[Scores, Plan]:
        layout = decision.source.layout
        scores = normalized(decision.measured, [use.build(Normalizer) for use in recipe.normalize], layout)
        return scores, recipe.allocate.build(Allocator)(AllocateJob(layout, scores, decision.priors))

    return planned


def _allocators(recipe: Recipe) -> list[Allocator[Any]]:
    """One for each iterative step; the ratio grows evenly up to the one asked for."""
    steps = recipe.iterative_steps
    if steps == 1:
        return [recipe.allocate.build(Allocator)]
    use, settings = recipe.allocate.use, recipe.allocate.with_
    ratio = resolved_use("allocator", recipe.allocate).with_.get("ratio")
    if ratio is None:
        raise PlanError.no_ratio(use)
    return [registry.build(Allocator, use, {**settings, "ratio": ratio * step / steps}) for step in range(1, steps + 1)]
