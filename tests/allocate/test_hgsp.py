"""H-GSP keeps R4: its gate, its knapsack, its collapse, its budget and its limits."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hgsp_core.allocate.contract import AllocateJob
from hgsp_core.allocate.hgsp import HGSP, HGSPParams, gated
from hgsp_core.artifacts import Plan, Priors, Scores
from hgsp_core.artifacts.errors import PlanError
from tests.helpers.allocate_models import (
    channel_cost,
    job,
    jobs,
    llama3_8b,
    short_of,
    sizes,
    small,
    some_of,
    spread_priors,
    spread_scores,
)


def plan_of(job: AllocateJob, **params) -> Plan:
    return HGSP(HGSPParams(**params))(job)


# --- the reference: R4 written out unit by unit, in plain Python


def reference(job: AllocateJob, ratio: float, of: str, temperature: float, tau: float | str, epsilon: float):
    """(layer, axis) -> set of kept units, and what is left of the budget."""
    layout, priors = job.layout, job.priors
    blocks = {(b.layer, b.axis.name): b for b in layout.blocks()}
    axes = [a.name for a in layout.architecture.axes]
    budget = math.floor(ratio * (layout.parameters if of == "total" else layout.layer_parameters))

    # 1-3: score and gate
    p_layer = [max(0.0, float(p)) for p in priors.layer]
    if tau == "auto":
        ordered = sorted(p_layer)
        position = 0.25 * (len(ordered) - 1)
        low = math.floor(position)
        high = min(low + 1, len(ordered) - 1)
        tau = ordered[low] + (position - low) * (ordered[high] - ordered[low])
    queue = []
    for row in range(len(job.scores)):
        layer, axis = int(job.scores.layer[row]), axes[job.scores.axis[row]]
        importance = float(job.scores.importance[row])
        score = importance / blocks[layer, axis].unit_cost
        if temperature:
            prior = p_layer[layer]
            if prior >= tau and axis in priors.blocks and not math.isnan(priors.blocks[axis][layer]):
                prior = max(0.0, float(priors.blocks[axis][layer]))
            score *= float(np.log1p(prior)) ** temperature
        queue.append((score, layer, axes.index(axis), importance, int(job.scores.index[row])))
    queue.sort()
    best = {axis: [u for u in queue if axes[u[2]] == axis][-1] for axis in axes}

    # 4: knapsack
    def knapsack(whole):
        kept = {key: set() if key[0] in whole else set(range(b.units)) for key, b in blocks.items()}
        left = budget - sum(b.cost for key, b in blocks.items() if key[0] in whole)
        for unit in queue:
            key, index = (unit[1], axes[unit[2]]), unit[4]
            if unit is best[key[1]] or index not in kept[key]:
                continue
            count = len(kept[key])
            cost = blocks[key].kept_cost(count) - blocks[key].kept_cost(count - 1)
            if cost <= left:
                kept[key].discard(index)
                left -= cost
        return kept, left

    # 5: collapse
    whole: set[int] = set()
    while True:
        kept, left = knapsack(whole)
        share = [sum(len(kept[i, a]) / blocks[i, a].units for a in axes) / len(axes) for i in range(len(p_layer))]
        grown = set(whole)
        for layer in sorted(range(len(share)), key=lambda i: (share[i], i)):
            holds_best = any(u[1] == layer for u in best.values())
            price = sum(b.cost for key, b in blocks.items() if key[0] in grown | {layer})
            if share[layer] < epsilon and not holds_best and price <= budget:
                grown.add(layer)
        if grown == whole:
            break
        whole = grown
    return kept, left


@settings(max_examples=300, deadline=None)
@given(
    jobs(),
    st.floats(0.02, 0.98),
    st.sampled_from(["total", "layers"]),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.sampled_from(["auto", 0.0, 0.4, math.inf]),
    st.sampled_from([0.0, 0.15, 0.4, 0.7]),
)
def test_gate_knapsack_and_collapse_equal_the_reference(job, ratio, of, temperature, tau, epsilon):
    expected, left = reference(job, ratio, of, temperature, tau, epsilon)
    try:
        plan = plan_of(job, ratio=ratio, of=of, temperature=temperature, tau=tau, epsilon=epsilon)
    except PlanError:
        assert left > max(b.unit_cost for b in job.layout.blocks())
        return
    assert left <= max(b.unit_cost + b.fixed_cost for b in job.layout.blocks())
    got = {(i, axis): set(block.kept) for i, layer in enumerate(plan.layers) for axis, block in layer.items()}
    assert got == expected


# --- gate


def test_gate_multiplies_by_layer_prior_below_tau_and_by_block_prior_from_tau_on():
    layout = small(layers=4)
    scores = Scores.of(
        layout, [{name: np.ones(b.units) for name, b in layer.blocks.items()} for layer in layout.layers]
    )
    scores = scores.with_score(np.ones(len(scores)))
    priors = Priors(
        np.array([0.1, 1.0, 2.0, 3.0]),
        {"attention": np.array([9.0, 4.0, np.nan, -1.0]), "mlp": np.array([9.0, 5.0, 6.0, 7.0])},
    )
    b = gated(scores, priors, temperature=2.0, tau="auto").score  # tau = 0.775: layer 0 is layer-dominant
    got = [[b[scores.units_of(i, axis)[0]] for axis in scores.axes] for i in range(4)]
    expected = [
        [math.log(1.1) ** 2, math.log(1.1) ** 2],
        [math.log(5.0) ** 2, math.log(6.0) ** 2],
        [math.log(3.0) ** 2, math.log(7.0) ** 2],  # attention's was not measured: the layer's
        [0.0, math.log(8.0) ** 2],  # a negative prior counts as 0
    ]
    assert np.allclose(got, expected, rtol=1e-14)


def test_tau_zero_is_block_wise_only_and_tau_inf_layer_wise_only():
    layout = small()
    scores, priors = spread_scores(layout), spread_priors(layout)
    blocks = np.stack([priors.blocks[axis] for axis in scores.axes], axis=1)[scores.layer, scores.axis]
    layers = priors.layer[scores.layer]
    assert np.allclose(gated(scores, priors, 1.0, 0.0).score, scores.score * np.log1p(blocks))
    assert np.allclose(gated(scores, priors, 1.0, math.inf).score, scores.score * np.log1p(layers))


def test_scores_below_zero_are_shifted_before_the_gate_so_that_a_high_prior_still_protects():
    layout = small()
    scores = spread_scores(layout)
    scores = scores.with_score(scores.score - scores.score.mean())
    priors = Priors(np.array([1, 1, 1e6, 1, 1, 1.0]), {})
    plan = HGSP(HGSPParams(ratio=0.3, temperature=3.0))(AllocateJob(layout, scores, priors))
    assert sizes(plan)[2] == max(sizes(plan))


def test_temperature_zero_needs_no_priors_unless_the_most_important_layers_are_frozen():
    assert HGSP(HGSPParams()).needs_priors
    assert not HGSP(HGSPParams(temperature=0)).needs_priors
    assert HGSP(HGSPParams(temperature=0, limits={"freeze_most_important": 1})).needs_priors
    layout = small()
    plan = HGSP(HGSPParams(temperature=0))(AllocateJob(layout, spread_scores(layout), None))
    assert plan.removed(layout) > 0


def test_a_layer_without_value_loses_its_lowest_scored_units_first():
    layout = small(layers=4)
    scores = spread_scores(layout)
    plan = HGSP(HGSPParams(ratio=0.05, epsilon=0))(AllocateJob(layout, scores, Priors(np.array([-1, 1, 1, 1.0]), {})))
    kept = plan.layers[0]["attention"].kept
    rows = scores.units_of(0, "attention")
    gone = [i for i in range(4) if i not in kept]
    assert gone
    assert scores.score[rows][gone].max() < scores.score[rows][list(kept)].min()


# --- budget


@settings(max_examples=150, deadline=None)
@given(jobs(), st.floats(0.02, 0.6), st.sampled_from([0.0, 0.15, 0.5]), st.sampled_from(["total", "layers"]))
def test_removed_never_passes_the_budget_and_falls_short_by_less_than_a_channel_or_says_why(job, ratio, epsilon, of):
    layout = job.layout
    try:
        plan = plan_of(job, ratio=ratio, of=of, epsilon=epsilon)
    except PlanError:
        return
    budget = plan.before - plan.target
    assert budget == math.floor(ratio * (layout.parameters if of == "total" else layout.layer_parameters))
    assert plan.removed(layout) <= budget
    assert short_of(plan, layout) < channel_cost(layout) or any("are kept" in note for note in plan.notes)


@settings(max_examples=60, deadline=None)
@given(jobs(), st.floats(0.05, 0.5))
def test_a_plan_survives_its_json_form_and_is_the_same_on_every_call(job, ratio):
    try:
        plan = plan_of(job, ratio=ratio)
    except PlanError:
        return
    data = json.loads(json.dumps(plan.to_json(job.layout, "models/x", "0")))
    assert Plan.from_json(data, job.layout) == plan == plan_of(job, ratio=ratio)


def test_the_inputs_are_left_as_they_were():
    layout = small()
    task = job(layout)
    before = task.scores.score.copy(), task.priors.layer.copy()
    plan_of(task, limits={"channel_multiple": 8})
    assert (task.scores.score == before[0]).all()
    assert (task.priors.layer == before[1]).all()


def test_equal_scores_go_by_layer_then_axis_then_index():
    layout = small(layers=3, channels=32)
    scores = Scores.of(
        layout, [{n: np.full(b.units, float(b.unit_cost)) for n, b in layer.blocks.items()} for layer in layout.layers]
    )
    layer = layout.layers[0]
    ratio = (layer.blocks["attention"].cost + 5 * channel_cost(layout) + 1) / layout.parameters
    plan = HGSP(HGSPParams(ratio=ratio, temperature=0, epsilon=0))(AllocateJob(layout, scores, None))
    assert sizes(plan) == [(0, 27), (4, 32), (4, 32)]
    assert plan.layers[0]["mlp"].kept == tuple(range(5, 32))


def test_the_last_unit_of_a_block_costs_what_the_block_owns_besides():
    layout = small(layers=2, channels=8, bias=True)
    mlp = layout.layers[0].blocks["mlp"]
    assert mlp.fixed_cost > 0
    ones = [{n: np.ones(b.units) for n, b in layer.blocks.items()} for layer in layout.layers]
    ones[0]["mlp"] = np.zeros(8)
    task = AllocateJob(layout, Scores.of(layout, ones), None)
    enough = (mlp.cost + 0.5) / layout.parameters
    assert sizes(plan_of(task, ratio=enough, temperature=0, epsilon=0))[0] == (4, 0)
    plan = plan_of(task, ratio=(mlp.cost - 0.5) / layout.parameters, temperature=0, epsilon=0)
    assert sizes(plan)[0] == (4, 1)
    assert plan.removed(layout) <= plan.before - plan.target


# --- collapse


def test_collapse_takes_thin_layers_whole_and_gives_their_price_back_elsewhere():
    layout = small(layers=4)
    importance = [
        {n: np.arange(1.0, b.units + 1) * (1 if layer.index == 1 else 50) for n, b in layer.blocks.items()}
        for layer in layout.layers
    ]
    importance[1]["mlp"][:-4] = 0.0  # 60 of 64 channels and 3 of 4 groups of layer 1 go first
    importance[1]["attention"][:-1] = 0.0
    task = AllocateJob(layout, Scores.of(layout, importance), None)
    plain = plan_of(task, ratio=0.25, temperature=0, epsilon=0)
    collapsed = plan_of(task, ratio=0.25, temperature=0, epsilon=0.2)
    groups, channels = sizes(plain)[1]
    assert 0 < (groups / 4 + channels / 64) / 2 < 0.2
    assert sizes(collapsed)[1] == (0, 0)
    elsewhere = [b for b in layout.blocks() if b.layer != 1]
    kept = [sum(b.kept_cost(len(plan.block(b).kept)) for b in elsewhere) for plan in (plain, collapsed)]
    assert kept[1] > kept[0]
    assert collapsed.removed(layout) <= collapsed.before - collapsed.target
    assert short_of(collapsed, layout) < channel_cost(layout)


def test_a_collapse_that_the_budget_cannot_pay_is_not_done_and_noted():
    layout = small(layers=3)
    importance = [{n: np.ones(b.units) * 1e6 for n, b in layer.blocks.items()} for layer in layout.layers]
    importance[1] = {n: np.arange(b.units) * 1.0 for n, b in layout.layers[1].blocks.items()}
    task = AllocateJob(layout, Scores.of(layout, importance), None)
    almost = (layout.layers[1].cost - 2 * channel_cost(layout)) / layout.parameters
    plan = plan_of(task, ratio=almost, temperature=0, epsilon=0.3)
    assert sizes(plan)[1] != (0, 0)
    assert any(note.startswith("Layer 1 keeps") and "budget" in note for note in plan.notes)


def test_the_thinnest_layer_collapses_first_where_the_budget_pays_for_one():
    layout = small(layers=4)
    importance = [{n: np.ones(b.units) * 1e6 for n, b in layer.blocks.items()} for layer in layout.layers]
    importance[1]["attention"][:3] = importance[1]["mlp"][:50] = 0.0  # keeps 23 %
    importance[2]["attention"][:4] = importance[2]["mlp"][:58] = 0.0  # keeps 5 %
    attention, mlp = layout.layers[1].blocks["attention"], layout.layers[1].blocks["mlp"]
    zeros = 7 * attention.unit_cost + attention.fixed_cost + 108 * mlp.unit_cost
    task = AllocateJob(layout, Scores.of(layout, importance), None)
    plan = plan_of(task, ratio=(zeros + 0.5) / layout.parameters, temperature=0, epsilon=0.3)
    assert sizes(plan)[2] == (0, 0)
    assert 0 not in sizes(plan)[1]
    assert len(plan.notes) == 1
    assert plan.notes[0].startswith("Layer 1 keeps")


def test_a_collapse_leaves_the_other_layers_their_least_rate_to_lose():
    layout = small(layers=4)
    importance = [{n: np.ones(b.units) * 1e6 for n, b in layer.blocks.items()} for layer in layout.layers]
    importance[1] = {n: np.ones(b.units) for n, b in layout.layers[1].blocks.items()}
    task = AllocateJob(layout, Scores.of(layout, importance), None)
    cost, least = layout.layers[0].cost, 0.15
    budget = cost + 3 * least * cost - 2 * channel_cost(layout)  # two channels short of a collapse
    plan = plan_of(task, ratio=budget / layout.parameters, temperature=0, epsilon=0.3, limits={"layer_min_rate": least})
    assert sizes(plan)[1] != (0, 0)
    for layer in layout.layers:
        removed = layer.cost - sum(b.kept_cost(len(plan.block(b).kept)) for b in layer.blocks.values())
        assert removed > least * cost - channel_cost(layout)


def test_some_attention_and_some_mlp_stay_whatever_the_scores():
    layout = small()
    scores = spread_scores(layout)
    plan = plan_of(
        AllocateJob(layout, scores.with_score(np.zeros(len(scores))), None), ratio=0.9, of="layers", temperature=0
    )
    assert sum(a for a, _ in sizes(plan)) >= 1
    assert sum(m for _, m in sizes(plan)) >= 1


# --- limits


@settings(max_examples=150, deadline=None)
@given(
    jobs(),
    st.floats(0.02, 0.4),
    some_of(
        freeze_first=st.integers(0, 2),
        freeze_last=st.integers(0, 2),
        freeze_most_important=st.integers(0, 2),
        layer_start=st.integers(0, 1),
        layer_end=st.integers(2, 2),
        layer_max_rate=st.floats(0.2, 0.9),
        min_heads=st.integers(0, 3),
        min_channels=st.integers(0, 5),
        channel_multiple=st.integers(1, 5),
        pruning_distribution=st.sampled_from(["5:5", "10:0", "0:10", "2.5:7.5"]),
    ),
)
def test_every_limit_holds_and_the_budget_with_it(job, ratio, limits):
    layout = job.layout
    try:
        plan = plan_of(job, ratio=ratio, epsilon=0.4, limits=limits)
    except PlanError as error:
        assert "allocate.with.ratio" in str(error)  # noqa: PT017 - only some of the jobs
        assert "at most" in str(error)  # noqa: PT017 - only some of the jobs
        return
    count, budget = len(layout.layers), plan.before - plan.target
    assert plan.removed(layout) <= budget
    assert short_of(plan, layout) < channel_cost(layout) or any("are kept" in note for note in plan.notes)

    frozen = set(range(limits.get("freeze_first", 0))) | set(range(count - limits.get("freeze_last", 0), count))
    frozen |= set(range(limits.get("layer_start", 0))) | set(range(limits.get("layer_end", count), count))
    ranked = sorted(range(count), key=lambda i: (-job.priors.layer[i], i))
    frozen |= set(ranked[: limits.get("freeze_most_important", 0)])
    lost = dict.fromkeys(("attention", "mlp"), 0)
    for layer in layout.layers:
        removed = 0
        for axis, block in layer.blocks.items():
            kept = len(plan.layers[layer.index][axis].kept)
            lost[axis] += block.cost - block.kept_cost(kept)
            removed += block.cost - block.kept_cost(kept)
            if layer.index in frozen:
                assert kept == block.units
            assert kept >= min(block.units, limits.get("min_heads" if axis == "attention" else "min_channels", 0))
            if axis == "mlp" and kept < block.units:
                assert kept % limits.get("channel_multiple", 1) == 0
        assert removed <= limits.get("layer_max_rate", 1) * layer.cost
    attention, mlp = (float(x) for x in limits.get("pruning_distribution", "0:0").split(":"))
    if attention + mlp:
        assert lost["attention"] <= attention / (attention + mlp) * budget
        assert mlp or not lost["mlp"]


def test_the_most_important_layers_stay_whole_though_their_scores_are_the_lowest():
    layout = small()
    importance = [{n: np.full(b.units, 1e3) for n, b in layer.blocks.items()} for layer in layout.layers]
    importance[1] = importance[4] = {n: np.zeros(b.units) for n, b in layout.layers[1].blocks.items()}
    task = AllocateJob(layout, Scores.of(layout, importance), Priors(np.array([1, 9, 2, 3, 8, 4.0]), {}))
    plan = plan_of(task, ratio=0.3, temperature=0, limits={"freeze_most_important": 2})
    assert sizes(plan)[1] == sizes(plan)[4] == (4, 64)
    assert plan.removed(layout) > 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0.05, 0.1, 0.15]))
def test_every_layer_loses_its_least_rate_to_within_one_channel(seed, least):
    layout = small()
    plan = plan_of(job(layout, seed), ratio=0.2, limits={"layer_min_rate": least})
    for layer in layout.layers:
        removed = layer.cost - sum(b.kept_cost(len(plan.block(b).kept)) for b in layer.blocks.values())
        assert removed > least * layer.cost - channel_cost(layout)


def test_attention_gets_its_share_and_what_it_cannot_use_goes_to_the_mlp():
    layout = small()
    plan = plan_of(job(layout), ratio=0.2, epsilon=0, limits={"pruning_distribution": "5:5"})
    budget = plan.before - plan.target
    group = layout.layers[0].blocks["attention"].unit_cost
    lost = sum(b.cost - b.kept_cost(len(plan.block(b).kept)) for b in layout.blocks() if b.axis.cache)
    assert budget / 2 - group < lost <= budget / 2
    assert short_of(plan, layout) < channel_cost(layout)


def test_an_impossible_ratio_names_itself_the_largest_possible_and_the_limits():
    layout = small()
    with pytest.raises(PlanError) as error:
        plan_of(job(layout), ratio=0.7, limits={"freeze_first": 2, "layer_max_rate": 0.5})
    message = str(error.value)
    assert "allocate.with.ratio: 0.7" in message
    assert "allocate.with.limits.freeze_first: 2" in message
    assert "layer_max_rate: 0.5" in message
    largest = float(message.split("at most ")[1].split(" ")[0])
    plan = plan_of(job(layout), ratio=largest, limits={"freeze_first": 2, "layer_max_rate": 0.5})
    assert plan.removed(layout) / layout.parameters > largest - 0.02


def test_a_ratio_that_leaves_nothing_is_refused_without_limits_too():
    with pytest.raises(PlanError, match="every model must keep some units"):
        plan_of(job(small()), ratio=0.999, of="layers")


def test_a_ratio_below_what_all_layers_must_lose_is_refused():
    with pytest.raises(PlanError, match="layer_min_rate"):
        plan_of(job(small()), ratio=0.1, limits={"layer_min_rate": 0.3})


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"pruning_distribution": 305}, "quotes"),
        ({"pruning_distribution": "0:0"}, "one share above 0"),
        ({"pruning_distribution": "five"}, "attention:mlp"),
        ({"layer_start": 3, "layer_end": 3}, "must be above layer_start"),
        ({"layer_min_rate": 0.5, "layer_max_rate": 0.4}, "must not be above"),
        ({"freeze_frist": 1}, "Extra inputs"),
    ],
)
def test_contradictory_limits_are_refused_before_a_model_is_read(limits, says):
    with pytest.raises(ValidationError, match=says):
        HGSPParams(limits=limits)


def test_a_layer_range_outside_the_model_is_refused():
    with pytest.raises(PlanError, match=r"allocate.with.limits.layer_end: 32 .* 6 layers"):
        plan_of(job(small()), limits={"layer_end": 32})


def test_scores_and_priors_that_are_no_numbers_are_refused_by_place():
    layout = small()
    task = job(layout)
    score = task.scores.score.copy()
    score[task.scores.units_of(2, "mlp")[5]] = np.nan
    with pytest.raises(PlanError, match="layer 2, mlp, unit 5"):
        plan_of(AllocateJob(layout, task.scores.with_score(score), None), temperature=0)
    with pytest.raises(PlanError, match="prior of layer 1"):
        plan_of(AllocateJob(layout, task.scores, Priors(np.array([1, np.nan, 1, 1, 1, 1]), {})))


def test_llama_3_8b_is_planned_exactly(capsys):
    layout = llama3_8b()
    assert layout.parameters == 8_030_261_248
    task = job(layout)
    start = time.perf_counter()
    plan = plan_of(task)
    with capsys.disabled():
        print(f"\nH-GSP over {len(task.scores):,} units: {time.perf_counter() - start:.2f} s")
    assert 0 <= short_of(plan, layout) < channel_cost(layout)
