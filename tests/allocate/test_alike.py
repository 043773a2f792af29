"""H-GSP with `uniform: true`: one size for all layers that stay, whole layers may go, and the budget is used up."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hgsp_core.allocate.hgsp import HGSP, HGSPParams, gated
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.runtime.recipe import parse_recipe, resolved
from tests.helpers.allocate_models import channel_cost, job, jobs, llama3_8b, short_of, sizes, small


def plan_of(job, **params):
    return HGSP(HGSPParams(uniform=True, **params))(job)


@settings(max_examples=150, deadline=None)
@given(jobs(), st.floats(0.02, 0.8), st.sampled_from([1, 1, 2]), st.sampled_from([0, 0.15]))
def test_the_plan_is_a_stock_models_within_the_budget(job, ratio, multiple, epsilon):
    layout = job.layout
    try:
        plan = plan_of(job, ratio=ratio, epsilon=epsilon, limits={"channel_multiple": multiple})
    except PlanError as error:
        assert "at most" in str(error)  # noqa: PT017 - only some of the jobs
        assert "allocate.with.uniform: true" in str(error)  # noqa: PT017 - only some of the jobs
        return
    assert plan.is_uniform()
    assert plan.removed(layout) <= plan.before - plan.target
    channels = {kept for _, kept in sizes(plan) if kept}
    # the next smaller such model is too large a step, or channels are used up
    assert short_of(plan, layout) < len(layout.layers) * multiple * channel_cost(layout) or min(channels) <= multiple
    assert epsilon or len(plan.kept_layers()) == len(layout.layers)
    assert all(kept % multiple == 0 or kept == layout.blocks()[1].units for kept in channels)


def mean_score(plan, job, scores):
    """Σ score · cost of the units that go, over the parameters that go."""
    lost = 0.0
    for b in job.layout.blocks():
        score = scores.score[scores.units_of(b.layer, b.axis.name)]
        lost += np.delete(score, plan.block(b).kept).sum() * b.unit_cost
    return lost / plan.removed(job.layout)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ratio", [0.15, 0.3, 0.5])
def test_no_other_such_plan_takes_units_of_a_lower_mean_score(seed, ratio):
    """Against every choice of layers, groups and channels that uses the same budget up."""
    task = job(small(layers=4, kv_heads=2, channels=12), seed)
    layout, blocks = task.layout, task.layout.blocks()
    scores = gated(task.scores, task.priors, 1.0, "auto")
    plan = plan_of(task, ratio=ratio)
    budget, slab = plan.before - plan.target, 4 * channel_cost(layout)

    lowest = math.inf
    for n in range(4):
        for whole in combinations(range(4), n):
            for groups in range(2):
                for channels in range(12):
                    spent = lost = 0
                    for b in blocks:
                        gone = b.units if b.layer in whole else (groups if b.axis.name == "attention" else channels)
                        spent += b.cost - b.kept_cost(b.units - gone)
                        lost += np.sort(scores.score[scores.units_of(b.layer, b.axis.name)])[:gone].sum() * b.unit_cost
                    room = sum(b.unit_cost for b in blocks if b.axis.name == "mlp" and b.layer not in whole)
                    if spent <= budget < spent + room and budget - spent < slab:
                        lowest = min(lowest, lost / spent)
    best = max(range(len(scores)), key=lambda row: scores.score[row])  # of a layer that H-GSP never empties
    assert scores.layer[best] in plan.kept_layers()
    assert mean_score(plan, task, scores) <= lowest * (1 + 1e-9) or len(plan.kept_layers()) < 4
    assert mean_score(plan, task, scores) >= lowest * (1 - 1e-9)


def test_a_layer_that_is_worth_nothing_goes_whole_unless_that_is_switched_off():
    task = job(small(layers=5))
    task.priors.layer[2] = 0.0
    for values in task.priors.blocks.values():
        values[2] = 0.0
    assert plan_of(task, ratio=0.25).kept_layers() == [0, 1, 3, 4]
    assert plan_of(task, ratio=0.25, epsilon=0).kept_layers() == [0, 1, 2, 3, 4]


def test_inside_a_block_the_lowest_scored_units_go():
    task = job(small())
    plan = plan_of(task, ratio=0.3, temperature=0, epsilon=0)
    for block in task.layout.blocks():
        score = task.scores.score[task.scores.units_of(block.layer, block.axis.name)]
        kept = list(plan.block(block).kept)
        gone = sorted(set(range(block.units)) - set(kept))
        assert not gone or score[gone].max() <= score[kept].min()


def test_units_that_limits_hold_stay_in_every_layer():
    plan = plan_of(job(small()), ratio=0.3, limits={"min_heads": 3, "min_channels": 30, "channel_multiple": 8})
    assert len(plan.kept_layers()) == 6
    assert {(a >= 3, m >= 30, m % 8) for a, m in sizes(plan)} == {(True, True, 0)}


@pytest.mark.parametrize("multiple", [32, 64, 128, 256])
def test_llama_3_8b_keeps_a_multiple_of_channels_and_misses_the_ratio_by_less_than_one_step(multiple):
    layout = llama3_8b()
    plan = plan_of(job(layout), ratio=0.2, limits={"channel_multiple": multiple})
    assert plan.is_uniform()
    assert {m % multiple for _, m in sizes(plan)} == {0}
    assert 0 <= short_of(plan, layout) < 32 * multiple * channel_cost(layout)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"query_heads": True}, "leave out query_heads"),
        ({"limits": {"freeze_first": 1}}, "leave out limits.freeze_first"),
        ({"limits": {"pruning_distribution": "5:5"}}, "leave out limits.pruning_distribution"),
    ],
)
def test_what_treats_layers_differently_contradicts_it(params, message):
    with pytest.raises(ValidationError, match=message):
        HGSPParams(uniform=True, **params)


def test_the_recipe_that_a_run_writes_down_can_be_run():
    recipe = resolved(parse_recipe("model: {path: x}\nallocate: {use: hgsp, with: {uniform: true}}\noutput: y\n", "r"))
    assert parse_recipe(recipe.to_yaml(), "again").allocate.with_["uniform"] is True
