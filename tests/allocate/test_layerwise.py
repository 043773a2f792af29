"""The layerwise allocation: rates of layers from their priors, in whole units, within the budget."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hgsp_core.allocate.contract import AllocateJob
from hgsp_core.allocate.layerwise import Layerwise, LayerwiseParams, layer_rates, layer_weights
from hgsp_core.allocate.rates import scaled_rates
from hgsp_core.artifacts import Plan, Priors
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.model.layout import Layout
from tests.helpers.allocate_models import (
    channel_cost,
    job,
    jobs,
    llama3_8b,
    short_of,
    sizes,
    small,
    some_of,
    spread_scores,
)


def plan_of(job: AllocateJob, **params) -> Plan:
    return Layerwise(LayerwiseParams(**params))(job)


def achieved_rates(plan: Plan, layout: Layout) -> np.ndarray:
    """[layers]: share of each layer's parameters that the plan removes."""
    kept = [sum(b.kept_cost(len(plan.block(b).kept)) for b in layer.blocks.values()) for layer in layout.layers]
    return 1 - np.array(kept) / [layer.cost for layer in layout.layers]


# --- the worked example of R5: Llama-3-8B at 25 %, prior `removal`

SEEN = {0: (5291.99, 0.0), 1: (614.10, 0.0967), 2: (2.43, 0.2612), 11: (0.22, 0.2750), 31: (31.60, 0.2039)}


def llama3_8b_priors(others: float | np.ndarray) -> Priors:
    """The five priors that are known; 0.22 is the least and 5291.99 the highest. `others` for the 27 that are not."""
    layer = np.empty(32)
    unknown = [i for i in range(32) if i not in SEEN]
    layer[unknown] = others
    for i, (prior, _) in SEEN.items():
        layer[i] = prior
    return Priors(layer, {})


@pytest.mark.parametrize("seed", range(5))
def test_r5_rates_stand_in_the_proportions_seen_whatever_the_unknown_priors(seed):
    """All rates are one scale times 1 − x^1.5: the other layers set the scale, not the proportions."""
    others = np.exp(np.random.default_rng(seed).uniform(np.log(0.22), np.log(100), size=27))
    weight = layer_weights(llama3_8b_priors(others).layer, "inverse", log_transform=True, importance_weight=1.5)
    for i, (_, rate) in SEEN.items():
        assert weight[i] / weight[11] == pytest.approx(rate / SEEN[11][1], abs=5e-4)


def test_r5_rates_are_those_seen_where_the_unknown_priors_bring_their_mean_to_25_percent():
    """The 27 unknown layers get one prior, the one for which the highest rate is 27.50 %.

    1.7 lies between the known priors of neighbouring layers (2.43 and 0.22). The four other rates then follow and must
    be the ones seen.
    """
    layout = llama3_8b()
    params = LayerwiseParams(ratio=0.25, of="layers", min_effective_rate=0)

    def rates(others: float) -> np.ndarray:
        return layer_rates(params, layout, llama3_8b_priors(others))

    low, high = 0.22, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rates(middle)[11] < 0.2750 else (low, middle)
    assert 1.5 < low < 2.0
    for i, (_, rate) in SEEN.items():
        assert rates(low)[i] == pytest.approx(rate, abs=1e-4)
    assert rates(low).mean() == pytest.approx(0.25, abs=1e-6)  # all layers cost the same


def test_r5_layers_0_and_1_stay_whole_and_the_plan_keeps_the_order_of_the_rates():
    layout = llama3_8b()
    task = AllocateJob(layout, spread_scores(layout), llama3_8b_priors(1.7))
    plan = plan_of(task, ratio=0.25, of="layers")
    kept = sizes(plan)
    assert kept[0] == kept[1] == (8, 14336)  # 0 % and, below the least effective rate, 9.67 %
    rates = achieved_rates(plan, layout)
    assert rates[31] < rates[2] < rates[11]
    # layer 1's share of 9.67 % went to the others, in proportion: a factor of 32 · 25 % / (32 · 25 % − 9.67 %)
    moved = 8 / (8 - 0.0967)
    for i in (2, 11, 31):
        assert rates[i] == pytest.approx(SEEN[i][1] * moved, abs=2e-3)
    assert 0 <= short_of(plan, layout) < channel_cost(layout)


# --- rates


def test_inverse_spares_important_layers_proportional_cuts_them_and_uniform_asks_no_priors():
    layout = small(layers=5)
    prior = np.array([1.0, 3.0, 9.0, 27.0, 80.0])
    task = AllocateJob(layout, spread_scores(layout), Priors(prior, {}))
    inverse, proportional, uniform = (
        achieved_rates(plan_of(task, strategy=s, of="layers", min_effective_rate=0), layout)
        for s in ("inverse", "proportional", "uniform")
    )
    assert (np.diff(inverse) < 0).all()
    assert inverse[4] == 0
    assert (np.diff(proportional) > 0).all()
    assert proportional[0] == 0
    assert np.ptp(uniform) < 0.02
    assert not Layerwise(LayerwiseParams(strategy="uniform")).needs_priors
    assert Layerwise(LayerwiseParams()).needs_priors


def test_importance_weight_and_log_transform_shape_the_weights_as_written():
    prior = np.array([0.0, 1.0, 3.0, 7.0])
    assert np.allclose(layer_weights(prior, "proportional", True, 1.0), [0, 1 / 3, 2 / 3, 1])
    assert np.allclose(layer_weights(prior, "inverse", True, 2.0), [1, 8 / 9, 5 / 9, 0])
    assert np.allclose(layer_weights(prior, "proportional", False, 1.0), prior / 7)
    assert (layer_weights(np.full(4, 5.0), "proportional", True, 1.5) == 1).all()


def test_clipped_rates_still_have_the_target_as_their_parameter_weighted_mean():
    weight, cost = np.array([0.1, 0.5, 1.0, 1.0]), np.array([100, 200, 300, 400])
    rates = scaled_rates(weight, cost, budget=500, low=0.2, high=0.6)
    assert (rates * cost).sum() == pytest.approx(500)
    assert rates[0] == 0.2
    assert rates[2] == rates[3] == 0.6
    assert 0.2 < rates[1] < 0.6


def test_layers_under_the_least_effective_rate_stay_whole_and_their_share_moves():
    layout = small(layers=4)
    priors = Priors(np.array([100.0, 1.0, 1.5, 50.0]), {})
    task = AllocateJob(layout, spread_scores(layout), priors)
    params = LayerwiseParams(ratio=0.2, of="layers")
    rates = layer_rates(params, layout, priors)
    assert rates[0] == rates[3] == 0
    assert rates[[1, 2]].min() >= 0.15
    assert rates.mean() == pytest.approx(0.2, rel=1e-3)
    assert sizes(plan_of(task, ratio=0.2, of="layers"))[3] == (4, 64)


def test_a_ratio_below_the_least_effective_rate_goes_to_the_least_important_layers():
    layout = small(layers=6)
    prior = np.array([6.0, 5.0, 1.0, 2.0, 3.0, 4.0])
    rates = layer_rates(LayerwiseParams(ratio=0.06, of="layers", strategy="inverse"), layout, Priors(prior, {}))
    assert (rates > 0).tolist() == [False, False, True, True, False, False]
    assert rates[rates > 0].min() >= 0.15
    assert rates.mean() == pytest.approx(0.06, rel=1e-3)


# --- plans


@settings(max_examples=150, deadline=None)
@given(
    jobs(),
    st.floats(0.05, 0.6),
    st.sampled_from(["inverse", "proportional", "uniform"]),
    some_of(
        freeze_first=st.integers(0, 2),
        freeze_last=st.integers(0, 1),
        layer_min_rate=st.floats(0.05, 0.2),
        layer_max_rate=st.floats(0.3, 0.9),
        min_heads=st.integers(0, 3),
        min_channels=st.integers(0, 5),
        channel_multiple=st.integers(1, 4),
    ),
)
def test_budget_and_limits_hold_and_no_block_goes_whole(job, ratio, strategy, limits):
    layout = job.layout
    try:
        plan = plan_of(job, ratio=ratio, strategy=strategy, limits=limits)
    except PlanError as error:
        assert "allocate.with.ratio" in str(error)  # noqa: PT017 - only some of the jobs
        return
    assert plan.before - plan.target == math.floor(ratio * layout.parameters)
    assert plan.removed(layout) <= plan.before - plan.target
    assert short_of(plan, layout) < channel_cost(layout) or any("are kept" in note for note in plan.notes)
    frozen = [*range(limits.get("freeze_first", 0)), *range(len(layout.layers) - limits.get("freeze_last", 0), 9)]
    for layer, (groups, channels) in enumerate(sizes(plan)):
        blocks = layout.layers[layer].blocks
        if layer in frozen:
            assert (groups, channels) == (blocks["attention"].units, blocks["mlp"].units)
        assert groups >= max(1, min(limits.get("min_heads", 0), blocks["attention"].units))
        assert channels >= max(1, min(limits.get("min_channels", 0), blocks["mlp"].units))
        assert channels == blocks["mlp"].units or channels % limits.get("channel_multiple", 1) == 0
    assert (achieved_rates(plan, layout) <= limits.get("layer_max_rate", 1)).all()


def test_minimum_rates_above_the_ratio_are_refused_rather_than_the_budget_passed():
    with pytest.raises(PlanError, match=r"ratio: 0.0625 is below the minimum rates of the layers"):
        plan_of(job(small()), ratio=0.0625, limits={"layer_min_rate": 0.125})


def test_inside_a_block_the_lowest_scored_units_go_and_every_call_gives_the_same_plan():
    layout = small()
    task = job(layout)
    plan = plan_of(task, ratio=0.3)
    assert plan == plan_of(task, ratio=0.3)
    for block in layout.blocks():
        score = task.scores.score[task.scores.units_of(block.layer, block.axis.name)]
        kept = list(plan.block(block).kept)
        gone = sorted(set(range(block.units)) - set(kept))
        assert not gone or score[gone].max() <= score[kept].min()


def test_an_impossible_ratio_names_the_largest_and_what_holds_it():
    layout = small()
    with pytest.raises(PlanError) as error:
        plan_of(job(layout), ratio=0.6, limits={"layer_max_rate": 0.5})
    message = str(error.value)
    assert "allocate.with.limits.layer_max_rate: 0.5" in message
    assert "allocate.with.strategy: inverse" in message
    largest = float(message.split("at most ")[1].split(" ")[0])
    assert 0.3 < largest < 0.5
    plan_of(job(layout), ratio=largest, limits={"layer_max_rate": 0.5})


def test_a_least_effective_rate_above_the_highest_is_refused():
    with pytest.raises(ValidationError, match="no layer would be pruned"):
        LayerwiseParams(limits={"layer_max_rate": 0.1})


@pytest.mark.parametrize(("distribution", "share"), [("5:5", 0.5), ("10:0", 1.0), ("0:10", 0.0), ("1:3", 0.25)])
def test_a_pruning_distribution_splits_the_budget_between_attention_and_mlps(distribution, share):
    layout = llama3_8b()
    plan = plan_of(job(layout), ratio=0.1, min_effective_rate=0, limits={"pruning_distribution": distribution})
    gone = {True: 0, False: 0}
    for block in layout.blocks():
        kept = len(plan.layers[block.layer][block.axis.name].kept)
        gone[bool(block.axis.cache)] += block.cost - block.kept_cost(kept)
    budget, group = int(0.1 * layout.parameters), layout.blocks()[0].unit_cost
    assert 0 <= share * budget - gone[True] < group
    assert 0 <= budget - gone[True] - gone[False] < (group if share == 1 else channel_cost(layout))
