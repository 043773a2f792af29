"""What the result of a method must be, kind by kind. A trial is a method with its params (`method.py`)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

import numpy as np
import torch

from hgsp_core import (
    Allocator,
    Dataset,
    DatasetJob,
    HgspError,
    Layout,
    NormalizeJob,
    Plan,
    Priors,
    Reconstructor,
    Repair,
    Scorer,
    Scores,
)
from hgsp_core.testing import jobs
from hgsp_core.testing.check import fail, require
from hgsp_core.testing.model import sample_layout

if TYPE_CHECKING:
    from hgsp_core.testing.trial import Trial

#: shares of the parameters that an allocator is asked to remove
RATIOS = (0.2, 0.35, 0.5)


def _require_type(result: Any, wanted: type) -> None:
    require(isinstance(result, wanted), f"It returned a {type(result).__name__}; a {wanted.__name__} is needed.")


def declared_collectors_suffice(trial: Trial) -> None:
    """It reads only the statistics of the collectors that it declares."""
    trial.run()


def scores_fit_the_model(trial: Trial) -> None:
    """One score for each unit, in the order of the layout, with the units' exact costs: `Scores.of` makes them so."""
    _require_scores(trial.run(), jobs.scores() if not trial.build_as(Scorer).only_experts else _of_experts())


def layers_may_differ(trial: Trial) -> None:
    """Where some layers have experts and others an MLP, it scores all of the units or leaves out whole axes."""
    scorer = trial.build_as(Scorer)
    result, layout = trial.run(jobs.score_job(scorer, experts=True)), sample_layout(experts=True)
    _require_type(result, Scores)
    for block in layout.blocks():
        units = len(result.units_of(block.layer, block.axis.name))
        require(
            units in (0, block.units),
            f"Of a model whose layers differ it scores {units} of {block.units} units of layer {block.layer}, {block.axis.name}.",
        )
    require(np.isfinite(result.score).all(), "Of a model whose layers differ a score is NaN or infinite.")


def _of_experts() -> Scores:
    """The scores of the sample's experts alone."""
    table, layout = jobs.scores(experts=True), sample_layout(experts=True)
    importance = [
        {
            axis: table.importance[table.units_of(layer.index, axis)]
            for axis, block in layer.blocks.items()
            if block.routed
        }
        for layer in layout.layers
    ]
    return Scores.of(layout, importance)


def _require_scores(result: Any, expected: Scores) -> None:
    _require_type(result, Scores)
    require(result.axes == expected.axes, f"The axes are {result.axes}, the model's are {expected.axes}.")
    for column in ("layer", "axis", "index", "cost"):
        found = np.asarray(getattr(result, column))
        require(
            np.array_equal(found, getattr(expected, column)),
            f"Column '{column}' of the scores, {len(found)} long, is not that of the model's {len(expected)} units; "
            "make them with `Scores.of(job.layout, importance)`.",
        )
    for column in ("importance", "score"):
        shape = np.shape(getattr(result, column))
        require(shape == (len(expected),), f"Column '{column}' has shape {shape}, {(len(expected),)} is needed.")


def scores_are_finite(trial: Trial) -> None:
    """No score is NaN or infinite."""
    result = trial.run()
    for column in ("importance", "score"):
        bad = np.flatnonzero(~np.isfinite(getattr(result, column)))
        if len(bad):
            unit = bad[0]
            fail(
                f"{len(bad)} values of '{column}' are not finite, the first for layer {result.layer[unit]}, "
                f"{result.axes[result.axis[unit]]}, unit {result.index[unit]}. Look for a division by 0 or a logarithm of it."
            )


def priors_fit_the_model(trial: Trial) -> None:
    """One finite number for each layer; one for each block of an axis, or NaN where it was not measured."""
    result, layout = trial.run(), sample_layout()
    _require_type(result, Priors)
    layers, axes = len(layout.layers), [axis.name for axis in layout.architecture.axes]
    shape = np.shape(result.layer)
    require(shape == (layers,), f"`layer` has shape {shape}; one number for each of {layers} layers is needed.")
    require(np.isfinite(result.layer).all(), f"`layer` holds NaN or infinity: {result.layer}.")
    for axis, values in result.blocks.items():
        require(axis in axes, f"`blocks` has an axis '{axis}', the model's are {axes}: take the names from the layout.")
        require(np.shape(values) == (layers,), f"`blocks['{axis}']` has shape {np.shape(values)}, not ({layers},).")
        require(not np.isinf(values).any(), f"`blocks['{axis}']` holds infinity: {values}.")


def only_scores_change(trial: Trial) -> None:
    """The table stays as it was but for its column `score`."""
    before = jobs.scores()
    result = trial.run()
    _require_type(result, Scores)
    for column in ("layer", "axis", "index", "importance", "cost"):
        require(
            np.array_equal(getattr(result, column), getattr(before, column)),
            f"Column '{column}' changed; return `job.scores.with_score(new)`.",
        )
    shape, wanted = result.score.shape, before.score.shape
    require(shape == wanted, f"`score` has shape {shape}, not {wanted}.")


def plans_fit_layers_that_differ(trial: Trial) -> None:
    """Where some layers have experts and others an MLP, its plan fits them, or it says why it makes none."""
    allocator, layout = trial.build_as(Allocator), sample_layout(experts=True)
    for scores in (jobs.scores(experts=True), _of_experts()):
        try:
            plan = trial.run(replace(jobs.allocate_job(allocator, experts=True), scores=scores))
        except HgspError:
            continue
        _require_type(plan, Plan)
        Plan.from_json(plan.to_json(layout, "", ""), layout)
        budget = plan.before - plan.target
        require(plan.removed(layout) <= budget, f"It removes {plan.removed(layout)} parameters of {budget}.")


def normal_scores_are_finite(trial: Trial) -> None:
    """Equal, zero, negative and very unequal scores all become finite ones."""
    table = jobs.scores()
    cases = {
        "lognormal": table.score,
        "all equal": np.ones(len(table)),
        "all zero": np.zeros(len(table)),
        "negative": -table.score,
        "from 1e-12 to 1e6": np.logspace(-12, 6, len(table)),
    }
    for name, score in cases.items():
        result = trial.run(NormalizeJob(sample_layout(), table.with_score(score)))
        require(np.isfinite(result.score).all(), f"With {name} scores the result holds NaN or infinity.")


def order_inside_a_block_is_kept(trial: Trial) -> None:
    """What scored lower than another unit of its block still does (or equally): only the balance between blocks changes."""
    table = jobs.scores()
    result = trial.run()
    for block in sample_layout().blocks():
        rows = table.units_of(block.layer, block.axis.name)
        after = result.score[rows][np.argsort(table.score[rows])]
        require(
            (np.diff(after) >= 0).all(),
            f"Layer {block.layer}, {block.axis.name}: the order of the units changed. A normalizer brings blocks to one scale; "
            "what ranks units is a scorer.",
        )


def needed_priors_are_declared(trial: Trial) -> None:
    """Where `needs_priors` is False it gets none and asks for none."""
    implementation = trial.build_as(Allocator)
    try:
        trial.run()
    except (AttributeError, TypeError) as error:
        if implementation.needs_priors:
            raise
        fail(f"`needs_priors` is False, so job.priors is None; yet it seems to read them ({error}). Set it to True.")


def plans_fit_the_model(trial: Trial) -> None:
    """Every block has a plan with ascending units that it has, and at least one layer stays."""
    layout = sample_layout()
    for plan in _plans(trial).values():
        _require_type(plan, Plan)
        Plan.from_json(plan.to_json(layout, "", ""), layout)
        there = layout.parameters
        require(plan.before == there, f"`before` is {plan.before}, the model has {there} parameters.")
        require(plan.kept_layers(), "The plan removes every layer.")


def the_budget_is_met(trial: Trial) -> None:
    """It removes something, and never more parameters than the ratio, or the plan's own target, allows."""
    layout = sample_layout()
    removed = {}
    for ratio, plan in _plans(trial).items():
        removed[ratio] = plan.removed(layout)
        budgets = {"the plan's own target": plan.before - plan.target}
        if ratio is not None:
            whole = _denominator(trial, layout)
            budgets[f"ratio {ratio} of {whole}"] = math.floor(ratio * whole)
        for what, budget in budgets.items():
            require(
                removed[ratio] <= budget,
                f"It removes {removed[ratio]} parameters, {removed[ratio] - budget} more than {what} allows ({budget}). "
                "Count with `plan.removed(layout)`, which includes norms and biases of blocks that go whole.",
            )
    require(any(removed.values()), f"It removes nothing at any ratio of {RATIOS}.")


def _denominator(trial: Trial, layout: Layout) -> int:
    return layout.layer_parameters if getattr(trial.params, "of", "total") == "layers" else layout.parameters


def _plans(trial: Trial) -> dict[float | None, Plan]:
    """Ratio -> plan; without a parameter `ratio` one plan, under None. A ratio may be refused (HgspError), but not all."""
    if "ratio" not in type(trial.params).model_fields:
        return {None: trial.run()}
    plans: dict[float | None, Plan] = {}
    refused = None
    for ratio in RATIOS:
        try:
            plans[ratio] = trial.having(ratio=ratio).run()
        except HgspError as error:
            refused = error
    if not plans and refused:
        raise refused
    return plans


def repairs_fit_the_block(trial: Trial) -> None:
    """As many units stay as planned; weight and bias have their old size and dtype, and are finite."""
    job = jobs.block_job(trial.build_as(Reconstructor))
    repair = trial.run(job)
    _require_type(repair, Repair)
    units = set(repair.kept)
    require(
        len(units) == len(repair.kept) == len(job.kept) and units <= set(range(job.block.units)),
        f"It keeps units {repair.kept}; {len(job.kept)} different ones of {job.block.units} are needed.",
    )
    for name, before, after in (("weight", job.weight, repair.weight), ("bias", job.bias, repair.bias)):
        assert before is not None  # `block_job` gives both
        require(
            torch.is_tensor(after) and after.shape == before.shape and after.dtype == before.dtype,
            f"`{name}` must stay a tensor of shape {tuple(before.shape)} and {before.dtype}: it is "
            f"{(tuple(after.shape), after.dtype) if torch.is_tensor(after) else after!r}.",
        )
        require(after.isfinite().all(), f"`{name}` holds NaN or infinity.")


def a_place_without_bias_gets_none(trial: Trial) -> None:
    """Where the model has no place for a bias, the repair has none."""
    repair = trial.run(replace(jobs.block_job(trial.build_as(Reconstructor)), bias=None))
    require(repair.bias is None, "The job's bias is None, so the model cannot hold one; the repair must not bring one.")


def maps_of_readers_fit(trial: Trial) -> None:
    """With `reads`, `read` answers for a block and for the head (`job.block` is None) with a square matrix, or None."""
    reconstructor = trial.build_as(Reconstructor)
    if not reconstructor.reads:
        return
    for job in jobs.read_jobs():
        place = "a block" if job.block else "the head, where job.block is None,"
        try:
            found = reconstructor.read(job)
        except (AttributeError, TypeError) as error:
            raise AssertionError(f"`read` fails for {place} with {type(error).__name__}: {error}.") from error
        size = job.fit.gram.shape
        fits = found is None or (torch.is_tensor(found) and found.shape == size and found.isfinite().all())
        require(fits, f"`read` must give for {place} a finite tensor of shape {tuple(size)}, or None.")


def documents_are_text(trial: Trial) -> None:
    """Both splits give at least one document, each a str that is not empty."""
    implementation = trial.build_as(Dataset)
    for split in ("calibration", "evaluation"):
        try:
            documents = list(implementation(DatasetJob(split)))
        except HgspError as error:
            raise SkipTest(f"it cannot give its text here: {error}") from error
        require(documents, f"The split '{split}' has no document.")
        for document in documents:
            require(isinstance(document, str), f"The split '{split}' holds a {type(document).__name__}, not a str.")
        require(any(document.strip() for document in documents), f"The split '{split}' holds only blank documents.")
