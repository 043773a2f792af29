"""The uniform allocation: the same rate everywhere, the budget exactly, and the lowest-scored units of each block."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hgsp_core.allocate.contract import AllocateJob
from hgsp_core.allocate.uniform import Uniform, UniformParams
from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.errors import PlanError
from tests.helpers.allocate_models import channel_cost, job, jobs, llama, llama3_8b, short_of, sizes, small


def plan_of(job: AllocateJob, **params) -> Plan:
    return Uniform(UniformParams(**params))(job)


@settings(max_examples=150, deadline=None)
@given(jobs(), st.floats(0.02, 0.9), st.sampled_from(["total", "layers"]), st.sampled_from([1, 1, 2, 5]))
# the last 55 parameters pay for a group (32), not for five channels (60)
@example(job(llama(4, 4, 2, 2, 11, 1, head_dim=2)), 0.125, "total", 5)
def test_layers_differ_by_at_most_one_bundle_of_channels_and_the_budget_holds(job, ratio, of, multiple):
    layout = job.layout
    try:
        plan = plan_of(job, ratio=ratio, of=of, limits={"channel_multiple": multiple})
    except PlanError as error:
        assert "at most" in str(error)  # noqa: PT017 - only some of the jobs
        return
    budget = math.floor(ratio * (layout.parameters if of == "total" else layout.layer_parameters))
    assert plan.removed(layout) <= budget == plan.before - plan.target
    assert short_of(plan, layout) < channel_cost(layout) or any("are kept" in note for note in plan.notes)
    channels = [m for _, m in sizes(plan)]
    assert max(channels) - min(channels) <= multiple
    assert min(min(layer) for layer in sizes(plan)) >= 1
    groups = [a for a, _ in sizes(plan)]
    further = sum(max(groups) - kept for kept in groups) * layout.layers[0].blocks["attention"].unit_cost
    room = budget - plan.removed(layout) + further  # before those went
    assert not further or min(channels) < 1 + multiple or room < multiple * channel_cost(layout)


@settings(max_examples=100, deadline=None)
@given(jobs(), st.floats(0.02, 0.7), st.sampled_from([1, 2]))
def test_uniform_true_gives_a_stock_model_within_the_budget(job, ratio, multiple):
    layout = job.layout
    try:
        plan = plan_of(job, ratio=ratio, uniform=True, limits={"channel_multiple": multiple})
    except PlanError:
        return
    assert plan.is_uniform()
    assert plan.removed(layout) <= plan.before - plan.target
    # the next larger stock model with these groups is too large a step, or channels are used up
    (_groups, channels) = sizes(plan)[0]
    step = len(layout.layers) * multiple * channel_cost(layout)
    assert short_of(plan, layout) < step or channels <= multiple


def test_inside_a_block_the_lowest_scored_units_go():
    layout = small()
    task = job(layout)
    plan = plan_of(task, ratio=0.3)
    for block in layout.blocks():
        score = task.scores.score[task.scores.units_of(block.layer, block.axis.name)]
        kept = list(plan.block(block).kept)
        gone = sorted(set(range(block.units)) - set(kept))
        assert gone
        assert score[gone].max() <= score[kept].min()


@pytest.mark.parametrize(
    ("kv_heads", "ratio", "groups_gone"),
    [(2, 0.2, 0), (2, 0.3, 1), (4, 0.1, 0), (4, 0.2, 1), (4, 0.3, 1), (4, 0.4, 2), (8, 0.2, 2), (1, 0.4, 0)],
)
def test_attention_loses_the_rate_times_its_groups_rounded_and_the_mlp_the_rest(kv_heads, ratio, groups_gone):
    layout = small(kv_heads=kv_heads, channels=96)
    plan = plan_of(job(layout), ratio=ratio, of="layers")
    assert {a for a, _ in sizes(plan)} == {kv_heads - groups_gone}
    assert 0 <= short_of(plan, layout) < channel_cost(layout)


def test_each_kind_keeps_to_its_own_range_of_layers():
    layout = small(layers=8)
    plan = plan_of(
        job(layout), ratio=0.2, attention={"layer_start": 3, "layer_end": 6}, mlp={"layer_start": 1, "layer_end": 7}
    )
    assert [a < 4 for a, _ in sizes(plan)] == [False, False, False, True, True, True, False, False]
    assert [m < 64 for _, m in sizes(plan)] == [False, True, True, True, True, True, True, False]
    assert 0 <= short_of(plan, layout) < channel_cost(layout)


def test_a_range_too_small_for_the_ratio_is_refused_with_the_largest_ratio():
    layout = small(layers=8)
    with pytest.raises(PlanError) as error:
        plan_of(job(layout), ratio=0.5, attention={"layer_end": 2}, mlp={"layer_end": 2})
    message = str(error.value)
    assert "allocate.with.mlp.layer_end: 2" in message
    largest = float(message.split("at most ")[1].split(" ")[0])
    plan = plan_of(job(layout), ratio=largest, attention={"layer_end": 2}, mlp={"layer_end": 2})
    assert plan.removed(layout) / layout.parameters == pytest.approx(largest, abs=2e-3)


def test_a_range_outside_the_model_is_refused_by_its_recipe_key():
    with pytest.raises(PlanError, match=r"allocate.with.mlp.layer_start: 9 "):
        plan_of(job(small()), mlp={"layer_start": 9})


def test_uniform_true_and_a_range_contradict_each_other():
    with pytest.raises(ValidationError, match="uniform: true prunes every layer alike"):
        UniformParams(uniform=True, mlp={"layer_start": 3})


def test_llama_3_8b_keeps_a_multiple_of_channels_in_a_stock_shape():
    layout = llama3_8b()
    task = job(layout)
    plan = plan_of(task, uniform=True, limits={"channel_multiple": 256})
    assert plan.is_uniform()
    assert sizes(plan)[0][1] % 256 == 0
    slab = 32 * 256 * channel_cost(layout)
    assert 0 <= short_of(plan, layout) < slab
    assert any("channel_multiple: 256" in note and "uniform: true" in note for note in plan.notes)
    assert np.unique([a for a, _ in sizes(plan)]).tolist() == [6]  # round(8 * 0.23) = 2 groups gone


@pytest.mark.parametrize(("distribution", "share"), [("5:5", 0.5), ("10:0", 1.0), ("0:10", 0.0), ("1:3", 0.25)])
def test_a_pruning_distribution_splits_the_budget_between_attention_and_mlps(distribution, share):
    layout = llama3_8b()
    plan = plan_of(job(layout), ratio=0.1, limits={"pruning_distribution": distribution})
    gone = {True: 0, False: 0}
    for block in layout.blocks():
        kept = len(plan.layers[block.layer][block.axis.name].kept)
        gone[bool(block.axis.cache)] += block.cost - block.kept_cost(kept)
    budget, group = int(0.1 * layout.parameters), layout.blocks()[0].unit_cost
    assert 0 <= share * budget - gone[True] < group
    assert 0 <= budget - gone[True] - gone[False] < (group if share == 1 else channel_cost(layout))
