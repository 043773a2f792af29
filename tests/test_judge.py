"""The judge against a plain model whose writers were fitted by numpy, and the search that uses it."""

import numpy as np
import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

from hgsp_core.artifacts import Plan, Scores
from hgsp_core.builtin.hgsp import HGSP, HGSPParams
from hgsp_core.builtin.least_squares import LeastSquares
from hgsp_core.builtin.least_squares_params import LeastSquaresParams
from hgsp_core.builtin.search import Search, SearchParams, hull
from hgsp_core.checkpoint.on_disk import OnDisk
from hgsp_core.errors import SweepError
from hgsp_core.surgery import lines, mask_tensors
from hgsp_core.sweep import Resident, Streamed
from hgsp_core.sweep.judge import RIDGE, InMemory, Judge
from hgsp_core.sweep.sequential import repair
from hgsp_core.testing import jobs
from hgsp_core.testing.model import sample_layout, sample_model
from hgsp_core.testing.plans import fewer_heads, thinned, without
from hgsp_core.types import AllocateJob

LAYOUT = sample_layout()
TOKENS = np.random.default_rng(0).integers(0, 61, (12, 10))
PLANS = {
    "units": thinned(LAYOUT),
    "query heads": fewer_heads(LAYOUT, everywhere=False),
    "attention gone": without(LAYOUT, {(1, "attention")}),
    "layer gone": without(LAYOUT, {(1, "attention"), (1, "mlp")}),
}


def by_hand(plan, held_out):
    """KL of the model with the fitted writers put in, over the last windows; Gram matrices from forward hooks."""
    model = sample_model()
    ids = torch.from_numpy(TOKENS)
    inputs = {}
    hooks = [
        model.get_submodule(b.writer.module).register_forward_pre_hook(lambda m, a, n=b.writer.module: inputs.__setitem__(n, a[0]))
        for b in LAYOUT.blocks()
    ]
    with torch.no_grad():
        model(ids[:-held_out], use_cache=False)
        for hook in hooks:
            hook.remove()
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for block in LAYOUT.blocks():
            planned, writer = plan.block(block), block.writer
            if not planned.loses:
                continue
            weight, columns = state[writer.weight], lines(planned, writer).numpy() if planned.kept else []
            x = inputs[writer.module].flatten(0, 1).double().numpy()
            new = np.zeros(weight.shape)
            if len(columns):
                kept = x[:, columns]
                gram = kept.T @ kept
                pull = RIDGE * gram.diagonal().mean()
                gram += pull * np.eye(len(columns))
                old = weight.double().numpy()
                new[:, columns] = np.linalg.solve(gram, kept.T @ (x @ old.T) + pull * old[:, columns].T).T
            elif writer.has_bias:
                state[writer.bias].zero_()
            state[writer.weight] = torch.from_numpy(new).float()
        dense = log_softmax(model(ids[-held_out:], use_cache=False).logits[:, :-1].double(), -1)
        pruned = torch.func.functional_call(model, state, (ids[-held_out:],), {"use_cache": False}).logits
        pruned = log_softmax(pruned[:, :-1].double(), -1)
        return float(kl_div(pruned, dense, log_target=True, reduction="none").sum(-1).mean())


@pytest.mark.parametrize("name", PLANS)
def test_the_judge_is_the_divergence_of_the_model_with_fitted_writers(name):
    judge = Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 2)
    assert judge(PLANS[name]) == pytest.approx(by_hand(PLANS[name], 3), rel=2e-3)


def test_keeping_everything_is_no_divergence():
    assert Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 2)(Plan.keep_all(LAYOUT)) == 0


def test_what_was_judged_before_changes_nothing():
    """Neither the base plan nor the order of the plans; micro-batches only to rounding."""
    fresh = {name: Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 2)(plan) for name, plan in PLANS.items()}
    judge = Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 2)
    for base in PLANS.values():
        judge.rebase(base)
        for name, plan in PLANS.items():
            assert judge(plan) == fresh[name]
    other = Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 12)
    assert other(PLANS["units"]) == pytest.approx(fresh["units"], rel=1e-4)


def test_streamed_weights_are_judged_alike(tmp_path):
    sample_model().save_pretrained(tmp_path)
    resident = Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 2)
    streamed = Judge(Streamed(tmp_path, LAYOUT, torch.float32), TOKENS, 3, 2)
    for plan in PLANS.values():
        assert streamed(plan) == pytest.approx(resident(plan), rel=1e-6)


def test_gram_matrices_for_which_the_host_has_no_room_wait_on_disk(monkeypatch):
    resident = Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 2)
    monkeypatch.setattr("hgsp_core.sweep.judge.free_bytes", lambda device: 0)
    judge = Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 2)
    assert isinstance(judge._grams, OnDisk)
    assert [judge(plan) for plan in PLANS.values()] == [resident(plan) for plan in PLANS.values()]


def test_a_judge_needs_windows_on_both_sides():
    with pytest.raises(SweepError, match="12 windows are to judge plans, and calibrate.samples is 12"):
        Judge(Resident(sample_model(), LAYOUT), TOKENS, 12, 2)


@pytest.mark.parametrize("name", PLANS)
def test_a_repaired_plan_is_judged_as_the_model_that_the_repair_gives(name):
    judge, changed = Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 2), InMemory()
    method = LeastSquares(LeastSquaresParams())
    found = judge.repaired(PLANS[name], method, changed)
    again, model = InMemory(), sample_model()
    final = repair(Resident(model, LAYOUT), PLANS[name], method, TOKENS[3:], 2, again.keep)
    state = dict(mask_tensors({**model.state_dict(), **again}.items(), LAYOUT, final))
    ids = torch.from_numpy(TOKENS[:3])
    with torch.no_grad():
        dense = log_softmax(model(ids, use_cache=False).logits[:, :-1].double(), -1)
        pruned = torch.func.functional_call(model, state, (ids,), {"use_cache": False}).logits
    pruned = log_softmax(pruned[:, :-1].double(), -1)
    assert found == pytest.approx(float(kl_div(pruned, dense, log_target=True, reduction="none").sum(-1).mean()), rel=2e-3)


# ---------------------------------------------------------------- search


class Counting:
    """A real judge that remembers what it was asked."""

    def __init__(self):
        self.judge, self.found = Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 4), []
        self.repairs = []
        self.rebase = self.judge.rebase

    def __call__(self, plan):
        self.found.append((plan, self.judge(plan)))
        return self.found[-1][1]

    def repaired(self, plan):
        changed = InMemory()
        self.repairs.append((plan, self.judge.repaired(plan, LeastSquares(LeastSquaresParams()), changed)))
        return self.repairs[-1][1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ratio", [0.2, 0.4])
def test_a_search_is_never_worse_than_its_start_and_within_the_budget(seed, ratio):
    rng = np.random.default_rng(seed)
    importance = [
        {a: rng.lognormal(size=b.units) * 10 ** rng.uniform(0, 2) for a, b in layer.blocks.items()} for layer in LAYOUT.layers
    ]
    for layer, found in zip(LAYOUT.layers, importance):
        heads = layer.blocks["attention"].heads
        found["attention.heads"] = np.repeat(found["attention"][:, None], heads, 1) * rng.uniform(0.1, 1 / heads, (1, heads))
    scores, judge = Scores.of(LAYOUT, importance), Counting()
    params = SearchParams(ratio=ratio, of="layers", moves=6, seed=seed)
    plan = Search(params)(AllocateJob(LAYOUT, scores, None, judge))
    start = HGSP(HGSPParams(ratio=ratio, of="layers", temperature=0, query_heads=True))(AllocateJob(LAYOUT, scores, None))
    repaired = {found.sha256: kl for found, kl in judge.repairs}
    assert repaired[plan.sha256] == min(repaired.values())
    assert repaired[plan.sha256] <= repaired[start.sha256]
    full = [found for found, _ in judge.found if start.removed(LAYOUT) * 0.9 < found.removed(LAYOUT) <= params.budget(LAYOUT)]
    assert len(full) >= 2 + params.moves
    budget = params.budget(LAYOUT)
    assert plan.removed(LAYOUT) <= budget and plan.target == LAYOUT.parameters - budget
    assert all(found.removed(LAYOUT) <= budget for found, _ in judge.found[-6:])


def test_the_same_seed_finds_the_same_plan_and_no_limit_is_passed():
    task = jobs.allocate_job(Search(SearchParams()))
    limits = {"min_channels": 8, "channel_multiple": 4, "freeze_first": 1, "layer_max_rate": 0.6}
    params = SearchParams(ratio=0.3, of="layers", moves=10, limits=limits)
    plan, again = (Search(params)(task) for _ in range(2))
    assert plan == again
    layout = task.layout
    assert not any(b.loses for b in plan.layers[0].values())
    for index, layer in enumerate(plan.layers[1:], 1):
        assert len(layer["mlp"].kept) >= 8 and (not layer["mlp"].loses or len(layer["mlp"].kept) % 4 == 0)
        own = layout.layers[index]
        assert sum(plan.kept_cost(b) for b in own.blocks.values()) >= (1 - 0.6) * own.cost - 1


def test_the_hull_never_slopes_down_again():
    points = [(0, 0.0), (1, 0.5), (2, 0.4), (4, 2.0), (8, 2.5)]
    assert hull(points) == [(0, 0.0), (2, 0.4), (8, 2.5)]
