"""Single query heads as units: plans, surgery, statistics and the allocation that weighs them against whole groups."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hgsp_core.allocate.contract import AllocateJob
from hgsp_core.allocate.heads import head_path
from hgsp_core.allocate.hgsp import HGSP, HGSPParams
from hgsp_core.artifacts import Plan, Scores
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.artifacts.surgery import mask_tensors, prune_tensors
from hgsp_core.engine.collectors import TaylorAbs, WandaAbs, WeightAbs
from hgsp_core.engine.run import run_sweep
from hgsp_core.engine.weights import Resident
from hgsp_core.testing.model import sample_layout, sample_model
from hgsp_core.testing.plans import fewer_heads

LAYOUT = sample_layout()
ATTENTION = LAYOUT.layers[0].blocks["attention"]


def scores(seed=0, decades=1.0):
    rng = np.random.default_rng(seed)
    importance = []
    for layer in LAYOUT.layers:
        heads = rng.lognormal(size=(ATTENTION.units, ATTENTION.heads)) * 10 ** rng.uniform(0, decades)
        own = rng.lognormal(size=ATTENTION.units)
        mlp = rng.lognormal(size=layer.blocks["mlp"].units)
        importance.append({"attention": heads.sum(1) + own, "attention.heads": heads, "mlp": mlp})
    return Scores.of(LAYOUT, importance)


def test_a_pruned_model_has_the_parameters_that_the_plan_counts():
    plan = fewer_heads(LAYOUT, everywhere=False)
    kept = dict(prune_tensors(sample_model().state_dict().items(), LAYOUT, plan))
    assert (
        sum(t.numel() for t in kept.values()) == plan.parameters_after(LAYOUT) == plan.layout_after(LAYOUT).parameters
    )
    after = plan.layout_after(LAYOUT)
    assert {b.heads for b in after.blocks() if b.axis.name == "attention"} == {ATTENTION.heads, ATTENTION.heads - 1}
    assert {name: tuple(t.shape) for name, t in kept.items()} == {
        s.weight: s.shape for b in after.blocks() for s in b.slices
    } | {name: tuple(t.shape) for name, t in kept.items() if not name.endswith("proj.weight")}


def test_keys_and_values_of_a_group_stay_when_query_heads_go():
    plan = fewer_heads(LAYOUT, everywhere=True)
    before = sample_model().state_dict()
    kept = dict(prune_tensors(before.items(), LAYOUT, plan))
    masked = dict(mask_tensors(before.items(), LAYOUT, plan))
    head = ATTENTION.slices[0].width // ATTENTION.heads
    for layer in LAYOUT.layers:
        for name in ("k_proj", "v_proj"):
            torch.testing.assert_close(
                kept[f"{layer.module}.self_attn.{name}.weight"], before[f"{layer.module}.self_attn.{name}.weight"]
            )
        stays = [
            unit * ATTENTION.heads + h
            for unit, heads in enumerate(plan.layers[layer.index]["attention"].heads)
            for h in heads
        ]
        rows = [h * head + i for h in stays for i in range(head)]
        q, o = (f"{layer.module}.self_attn.{name}.weight" for name in ("q_proj", "o_proj"))
        assert torch.equal(kept[q], before[q][rows])
        assert torch.equal(kept[o], before[o][:, rows])
        assert torch.equal(masked[o][:, rows], before[o][:, rows])
        assert masked[o].count_nonzero() == kept[o].count_nonzero()


@pytest.mark.parametrize("collector", [WeightAbs(), TaylorAbs(), WandaAbs()], ids=lambda c: type(c).__name__)
def test_statistics_of_query_heads_are_their_rows_and_columns(collector):
    """Those of the heads add up to the group's, less what its key and value carry."""
    model = sample_model()
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (4, 12))
    found = run_sweep(Resident(model, LAYOUT), LAYOUT, tokens, [collector], 2)[collector]
    for layer in found:
        heads, units = layer["attention.heads"], layer["attention"]
        assert heads.shape == (ATTENTION.units, ATTENTION.heads)
        assert (heads.sum(1) < units).all()
    if isinstance(collector, WeightAbs):
        q, o = (model.get_submodule(f"{LAYOUT.layers[1].module}.self_attn.{n}") for n in ("q_proj", "o_proj"))
        shape = (ATTENTION.units, ATTENTION.heads, -1)
        expected = (q.weight.abs().sum(1) + q.bias.abs() + o.weight.abs().sum(0)).view(shape).sum(2)
        np.testing.assert_allclose(found[1]["attention.heads"], expected.detach().numpy(), rtol=1e-5)


def test_a_path_takes_the_cheaper_of_a_group_and_a_query_head_of_every_group():
    """By hand: two groups of two heads. Costs: a head c, a group k + 2c."""
    c, group = ATTENTION.head_cost, ATTENTION.unit_cost
    mass = np.array([[8.0, 1.0], [2.0, 6.0]]) * c  # importance of the heads
    rest = np.array([3.0, 1.0]) * (group - 2 * c)  # of key and value
    units = mass.sum(1) + rest
    block = sample_layout().layers[0].blocks["attention"]
    if block.units != 2 or block.heads != 2:
        block = _two_by_two(block)
    path = head_path(block, units / group, mass / units[:, None])
    # one head of each group: (1 + 2) c of importance for 2c of parameters, less than any group's
    assert path.states[0] == {0: (0,), 1: (1,)}
    assert path.score[0] == pytest.approx(1.5)
    assert path.cost[0] == 2 * c
    assert path.states[-1] == {}
    assert path.cost.sum() == block.cost
    assert (np.diff(path.score) >= 0).all()


def _two_by_two(block):
    from dataclasses import replace

    return replace(block, units=2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.3, 0.6]), st.floats(0, 3))
def test_the_budget_is_met_with_query_heads_and_never_passed(seed, ratio, decades):
    params = HGSPParams(ratio=ratio, of="layers", temperature=0, query_heads=True)
    plan = HGSP(params)(AllocateJob(LAYOUT, scores(seed, decades), None))
    removed = LAYOUT.parameters - sum(
        t.numel() for t in dict(prune_tensors(sample_model().state_dict().items(), LAYOUT, plan)).values()
    )
    assert removed == plan.removed(LAYOUT) <= params.budget(LAYOUT)
    assert params.budget(LAYOUT) - removed <= max(b.unit_cost + b.fixed_cost for b in LAYOUT.blocks()) * ATTENTION.units
    for layer in plan.layers:
        own = layer["attention"]
        assert len({len(heads) for heads in own.heads}) <= 1
        assert len(own.heads) in (0, len(own.kept))


def test_each_group_drops_its_own_least_important_heads():
    table = scores(3, 0)
    plan = HGSP(HGSPParams(ratio=0.15, of="layers", temperature=0, query_heads=True))(AllocateJob(LAYOUT, table, None))
    cut = [(i, layer["attention"]) for i, layer in enumerate(plan.layers) if layer["attention"].heads]
    assert cut, "no query head went"
    for layer, own in cut:
        shares = table.heads[layer]["attention"]
        for unit, stays in zip(own.kept, own.heads, strict=True):
            assert set(stays) == set(np.argsort(-shares[unit], kind="stable")[: len(stays)].tolist())


def test_a_plan_with_query_heads_survives_its_json():
    plan = HGSP(HGSPParams(ratio=0.4, of="layers", temperature=0, query_heads=True))(
        AllocateJob(LAYOUT, scores(5, 0), None)
    )
    again = Plan.from_json(json.loads(json.dumps(plan.to_json(LAYOUT, "m", "f"))), LAYOUT)
    assert again == plan
    assert again.sha256 == plan.sha256
    assert again.within(plan)
    assert plan.within(again)
    everything = Plan.keep_all(LAYOUT)
    assert plan.within(everything)
    assert not everything.within(plan)


def test_groups_that_keep_different_numbers_of_heads_are_refused():
    everything = {(b.layer, b.axis.name): range(b.units) for b in LAYOUT.blocks()}
    uneven = {(0, "attention"): [[0]] + [range(ATTENTION.heads)] * (ATTENTION.units - 1)}
    with pytest.raises(PlanError, match="layer 0, attention: every kept unit must keep the same number of query heads"):
        Plan.of(LAYOUT, everything, 0, heads=uneven)


def test_a_scorer_that_says_nothing_about_query_heads_is_named():
    silent = Scores.of(LAYOUT, [{n: np.ones(b.units) for n, b in layer.blocks.items()} for layer in LAYOUT.layers])
    with pytest.raises(PlanError, match=r"allocate.with.query_heads: the scorer gives no scores"):
        HGSP(HGSPParams(temperature=0, query_heads=True))(AllocateJob(LAYOUT, silent, None))
