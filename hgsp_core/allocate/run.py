"""From calibration to plan: everything that is decided before a weight is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, exp
from typing import TYPE_CHECKING, Any

from hgsp_core.allocate.contract import AllocateJob, Allocator
from hgsp_core.allocate.multiple import sized
from hgsp_core.artifacts import Calibration, Plan, Priors, Scores
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.artifacts.scales import Scales
from hgsp_core.data.calibrate import calibrate
from hgsp_core.data.run import CalibrationText
from hgsp_core.model.layout import Layout
from hgsp_core.plugin import registry
from hgsp_core.plugin.method import Params
from hgsp_core.repair.contract import Reconstructor
from hgsp_core.runtime.measure import Reused, gradient_scale, measure
from hgsp_core.runtime.monitor import Monitor
from hgsp_core.runtime.recipe import Recipe
from hgsp_core.runtime.source import Source
from hgsp_core.runtime.store import Store
from hgsp_core.score.contract import NormalizeJob, Normalizer, Prior, PriorJob, ScoreJob, Scorer

if TYPE_CHECKING:
    from hgsp_core.engine.collectors import Collector


#: predicted KL divergence, in nats per token, above which the user is warned before anything is cut
FAR = 1.0
#: largest ratio that `iterative_steps: auto` removes in one step, because prices in nats are local
STEP = 0.25


@dataclass(frozen=True)
class Decision:
    """Everything up to the plan. `calibration` is None if no measurement needed data.

    saved     seconds that the measurements found in the store had taken
    measured  scores of the original model before normalizers;  scales  size of its gradients in each layer
    predicted_kl  KL divergence between the original and the pruned model, in nats per token; None unless scores are in nats
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
    predicted_kl: float | None


@dataclass(frozen=True)
class Methods:
    """The methods of a recipe that decide what is kept; no prior where the allocator needs none.

    allocator     with the parameters of the recipe, `params`;  steps  number of iterative steps
    collectors    everything that the methods measure;  scale  the one that measures the size of gradients, or None
    needs_tokens  whether any of this, or the repair, needs the calibration tokens
    """

    scorer: Scorer[Any]
    normalizers: Sequence[Normalizer[Any]]
    prior: Prior[Any] | None
    allocator: Allocator[Any]
    params: Params
    steps: int
    collectors: tuple[Collector, ...]
    scale: Collector | None
    needs_tokens: bool


def decide(
    recipe: Recipe,
    source: Source,
    texts: Sequence[CalibrationText],
    monitor: Monitor,
    store: Store,
    needs_calibration: bool = False,
) -> Decision:
    """Everything before the cut: calibration, statistics, scores, priors, plan.

    With `iterative_steps` all but the calibration is repeated, each time on the model pruned so far.
    """
    methods = methods_of(recipe, source.layout)
    scorer, prior, scale = methods.scorer, methods.prior, methods.scale

    reused: Reused = {}
    calibration = None
    if methods.needs_tokens or needs_calibration:
        with monitor.stage("Calibrate"):
            calibration = calibrate(recipe.calibrate, texts, source, store, reused)
    decided: Decision | None = None
    predicted = 0.0 if scorer.in_nats else None
    if methods.allocator.compares_layers and not scorer.in_nats and not recipe.normalize:
        monitor.say(_incomparable(recipe.score.use))
    params, said, unscored = methods.params, tuple[str, ...](), tuple[str, ...]()
    for step in range(1, methods.steps + 1):
        previous = decided.plan if decided else None
        statistics = measure(recipe, source, calibration, methods.collectors, monitor, store, reused, previous)
        with monitor.stage("Plan") as progress:
            measured = scorer(ScoreJob(source.layout, statistics, recipe.calibrate.seed))
            unscored = _unscored(measured, source.layout, recipe.score.use)
            scores = normalized(measured, methods.normalizers, source.layout)
            priors = prior(PriorJob(source.layout, statistics)) if prior else None
            if previous:
                scores = scores.last(previous)
            job = AllocateJob(source.layout, scores, priors, progress, previous)
            if not previous:
                params, said = sized(recipe.allocate.use, params, job, measured if scorer.in_nats else None)
            plan = registry.build(Allocator, recipe.allocate.use, _at_step(params, step, methods.steps))(job)
            if previous and not plan.within(previous):
                raise PlanError.given_back(recipe.allocate.use)
            if predicted is not None:
                predicted += (measured.last(previous) if previous else measured).removed(plan)
        if decided:
            decided = replace(decided, scores=scores, priors=priors, plan=plan)
        else:
            scales = (
                Scales.of_gradients(statistics[scale])
                if scale
                else Scales.of_scores(measured, len(source.layout.layers))
            )
            decided = Decision(source, calibration, scores, priors, plan, (), 0.0, measured, scales, None)
    assert decided is not None  # there is at least one step
    decided = replace(decided, plan=replace(decided.plan, notes=(*decided.plan.notes, *said, *unscored)))
    if predicted is not None and predicted > FAR:
        plan = replace(decided.plan, notes=(*decided.plan.notes, _far(predicted, recipe)))
        decided = replace(decided, plan=plan)
        monitor.say(plan.notes[-1])
    for name in reused:
        monitor.say(f"Reused from the store: {name}")
    return replace(decided, reused=tuple(reused), saved=sum(reused.values()), predicted_kl=predicted)


def _incomparable(scorer: str) -> str:
    """Note on ranking all layers by scores of different scales."""
    return (
        f"Scores of '{scorer}' may not be comparable between layers. To keep its order in each block and price the blocks in nats: "
        f"score: {{use: curvature, with: {{order: {scorer}}}}}."
    )


def _unscored(scores: Scores, layout: Layout, scorer: str) -> tuple[str, ...]:
    """What stays whole because the scorer says nothing of it, one note an axis."""
    blocks = zip(layout.blocks(), scores.scored(layout), strict=True)
    layers = Counter(block.axis.name for block, scored in blocks if not scored)
    return tuple(
        f"{count} {'layer keeps all of its' if count == 1 else 'layers keep all of their'} {axis}: "
        f"'{scorer}' has no score for {axis}."
        for axis, count in layers.items()
    )


def _far(predicted: float, recipe: Recipe) -> str:
    """Warning of a large predicted KL divergence."""
    return (
        f"Warning: a KL divergence of {predicted:.2f} nats per token is predicted, a perplexity {exp(predicted):.1f} times that "
        f"of the original. Lower allocate.with.ratio ({recipe.allocate.with_.get('ratio', 'its default')}), or train after "
        "pruning (recover)."
    )


def methods_of(recipe: Recipe, layout: Layout) -> Methods:
    """The methods that decide what is kept, ready to be called."""
    scorer = recipe.score.build(Scorer)
    if scorer.only_experts and not any(block.routed for block in layout.blocks()):
        raise PlanError.only_experts(recipe.score.use, layout.architecture.model_type)
    params = _params(recipe)
    steps = _steps(recipe, scorer, params)
    allocator = registry.build(Allocator, recipe.allocate.use, params)
    allocator.check(layout)
    normalizers = [use.build(Normalizer) for use in recipe.normalize]
    prior = recipe.prior.build(Prior) if allocator.needs_priors else None
    collectors = {c.key: c for method in (scorer, prior) if method for c in method.collectors}
    scale = gradient_scale(collectors.values())
    collectors |= {scale.key: scale} if scale else {}
    repaired = bool(recipe.reconstruct.build(Reconstructor).targets)
    needs_tokens = repaired or any(c.needs_tokens for c in collectors.values())
    return Methods(
        scorer, normalizers, prior, allocator, params, steps, tuple(collectors.values()), scale, needs_tokens
    )


def normalized(scores: Scores, normalizers: Sequence[Normalizer[Any]], layout: Layout) -> Scores:
    """The scores after every normalizer, in order."""
    for normalizer in normalizers:
        scores = normalizer(NormalizeJob(layout, scores))
    return scores


def replan(decision: Decision) -> Callable[[Recipe], tuple[Scores, Plan]]:
    """Makes plans of other recipes from the measurements of this one; measures and writes nothing."""

    def planned(recipe: Recipe) -> tuple[Scores, Plan]:
        layout = decision.source.layout
        scores = normalized(decision.measured, [use.build(Normalizer) for use in recipe.normalize], layout)
        job = AllocateJob(layout, scores, decision.priors)
        nats = decision.measured if recipe.score.build(Scorer).in_nats else None
        params, _ = sized(recipe.allocate.use, _params(recipe), job, nats)
        return scores, registry.build(Allocator, recipe.allocate.use, params)(job)

    return planned


def _params(recipe: Recipe) -> Params:
    """The allocator's parameters."""
    return registry.installed().find("allocator", recipe.allocate.use).declared.params(**recipe.allocate.with_)


def _steps(recipe: Recipe, scorer: Scorer[Any], params: Params) -> int:
    """Number of iterative steps. Raises PlanError where there are several and the allocator has no ratio."""
    steps, ratio = recipe.iterative_steps, dict(params).get("ratio")
    if steps == "auto":
        return ceil(ratio / STEP) if scorer.in_nats and ratio else 1
    if steps > 1 and ratio is None:
        raise PlanError.no_ratio(recipe.allocate.use)
    return steps


def _at_step(params: Params, step: int, steps: int) -> Params:
    """The parameters of one of the steps, 1 to `steps`: the ratio grows evenly up to the given one."""
    return params if steps == 1 else params.model_copy(update={"ratio": dict(params)["ratio"] * step / steps})
