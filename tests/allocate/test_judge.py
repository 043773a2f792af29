"""The judge against a plain model whose writers were fitted by numpy, and the search that uses it."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

from hgsp_core.allocate.contract import AllocateJob
from hgsp_core.allocate.hgsp import HGSP, HGSPParams, prepared
from hgsp_core.allocate.judge import InMemory, Judge
from hgsp_core.allocate.search import Search, SearchParams, better, directions, hull, moved, priced, tried
from hgsp_core.artifacts import Plan, Scores
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.artifacts.surgery import lines, mask_tensors
from hgsp_core.checkpoint.on_disk import OnDisk
from hgsp_core.engine.errors import SweepError
from hgsp_core.engine.weights import Resident, Streamed
from hgsp_core.repair.least_squares import LeastSquares
from hgsp_core.repair.least_squares_params import LeastSquaresParams
from hgsp_core.repair.sequential import repair_blocks
from hgsp_core.testing import jobs
from hgsp_core.testing.model import sample_layout, sample_model
from hgsp_core.testing.plans import fewer_heads, thinned, without

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
        model.get_submodule(b.writer.module).register_forward_pre_hook(
            lambda m, a, n=b.writer.module: inputs.__setitem__(n, a[0])
        )
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
                pull = weight.shape[1] / len(x) * gram.diagonal().mean()
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


def test_the_order_of_plans_changes_nothing_and_micro_batches_only_rounding():
    fresh = {name: Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 2)(plan) for name, plan in PLANS.items()}
    judge = Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 2)
    for name, plan in (*PLANS.items(), *reversed(PLANS.items())):
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
    monkeypatch.setattr("hgsp_core.allocate.judge.free_bytes", lambda device: 0)
    judge = Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 2)
    assert isinstance(judge._grams, OnDisk)
    assert [judge(plan) for plan in PLANS.values()] == [resident(plan) for plan in PLANS.values()]


def test_where_the_dense_predictions_have_no_room_they_are_made_for_each_plan_with_the_same_result(monkeypatch):
    known = Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 2)
    monkeypatch.setattr("hgsp_core.allocate.judge.LOG_P_BYTES", 0)
    again = Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 2)
    assert known._log_p[0] is not None
    assert again._log_p[0] is None
    assert [known(plan) for plan in PLANS.values()] == [again(plan) for plan in PLANS.values()]


def test_a_judge_needs_windows_on_both_sides():
    with pytest.raises(SweepError, match=r"12 windows are held out to judge plans, but calibrate.samples is 12"):
        Judge(Resident(sample_model(), LAYOUT), TOKENS, 12, 2)


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("name", PLANS)
def test_a_repaired_plan_is_judged_on_one_half_as_the_repair_fitted_to_the_other_gives_it(name, half):
    class Hotter(LeastSquares):
        def read(self, job):
            return super().read(job) if job.block else 1.5 * torch.eye(len(job.fit.gram), dtype=torch.double)

    judge, changed = Judge(Resident(sample_model(), LAYOUT), TOKENS, 2, 2), InMemory()
    method = Hotter(LeastSquaresParams())
    found = judge.repaired(PLANS[name], half, method, changed)
    again, model = InMemory(), sample_model()
    halves = TOKENS[:5], TOKENS[5:10]
    final = repair_blocks(Resident(model, LAYOUT), PLANS[name], method, halves[1 - half], 2, again.keep)
    state = dict(mask_tensors({**model.state_dict(), **again}.items(), LAYOUT, final))
    ids = torch.from_numpy(halves[half])
    with torch.no_grad():
        dense = log_softmax(model(ids, use_cache=False).logits[:, :-1].double(), -1)
        pruned = torch.func.functional_call(model, state, (ids,), {"use_cache": False}).logits
    pruned = log_softmax(pruned[:, :-1].double(), -1)
    by_hand = kl_div(pruned, dense, log_target=True, reduction="none").sum(-1).mean(-1).numpy()
    assert found == pytest.approx(by_hand, rel=2e-3)
    assert len(found) == 5
    assert "lm_head.weight" in again


def test_moves_need_two_windows_in_either_half():
    judge = Judge(Resident(sample_model(), LAYOUT), TOKENS[:5], 2, 2)
    with pytest.raises(SweepError, match=r"Set calibrate.samples to 6 or more, or moves to 0"):
        judge.repaired(PLANS["units"], 0, LeastSquares(LeastSquaresParams()), InMemory())


# ---------------------------------------------------------------- search


class Counting:
    """A real judge that remembers what it was asked."""

    def __init__(self):
        self.judge, self.found = Judge(Resident(sample_model(), LAYOUT), TOKENS, 3, 4), []
        self.repairs = {}  # plan's hash -> plan, KL by half

    def __call__(self, plan):
        self.found.append((plan, self.judge(plan)))
        return self.found[-1][1]

    def repaired(self, plan, half):
        kl = self.judge.repaired(plan, half, LeastSquares(LeastSquaresParams()), InMemory())
        self.repairs.setdefault(plan.sha256, (plan, {}))[1][half] = kl
        return kl


def scores_of(seed):
    rng = np.random.default_rng(seed)
    importance = [
        {a: rng.lognormal(size=b.units) * 10 ** rng.uniform(0, 2) for a, b in layer.blocks.items()}
        for layer in LAYOUT.layers
    ]
    for layer, found in zip(LAYOUT.layers, importance, strict=True):
        heads = layer.blocks["attention"].heads
        found["attention.heads"] = np.repeat(found["attention"][:, None], heads, 1) * rng.uniform(
            0.1, 1 / heads, (1, heads)
        )
    return Scores.of(LAYOUT, importance)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ratio", [0.2, 0.4])
def test_a_search_is_never_worse_than_its_start_and_within_the_budget(seed, ratio):
    judge, shown = Counting(), []
    params = SearchParams(ratio=ratio, of="layers", moves=6, seed=seed)
    plan = Search(params)(
        AllocateJob(LAYOUT, scores_of(seed), None, judge, lambda done, total: shown.append((done, total)))
    )
    repairs = judge.repairs
    start, mine = next(iter(repairs.values()))[1], repairs[plan.sha256][1]
    assert next(iter(repairs)) == min(judge.found[0], judge.found[-1], key=lambda found: found[1])[0].sha256
    assert len(mine) == 2
    assert 4 <= len(repairs) <= 1 + params.moves
    assert plan.sha256 == next(iter(repairs)) or all(mine[half].mean() < start[half].mean() for half in mine)
    budget = params.budget(LAYOUT)
    full = [planned for planned, _ in repairs.values()]
    assert all(0.9 * budget < planned.removed(LAYOUT) <= budget for planned in full)
    assert plan.target == LAYOUT.parameters - budget
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)
    assert shown[-1][0] == shown[-1][1]
    assert len({total for _, total in shown}) == 1


def test_without_moves_the_better_of_both_orders_is_taken():
    scores, judge = scores_of(0), Counting()
    params = SearchParams(ratio=0.3, of="layers")
    plan = Search(params)(AllocateJob(LAYOUT, scores, None, judge))
    start = HGSP(HGSPParams(ratio=0.3, of="layers", temperature=0, query_heads=True))(AllocateJob(LAYOUT, scores, None))
    (first, first_kl), (second, second_kl) = judge.found[0], judge.found[-1]
    assert first.layers == start.layers
    assert first.layers != second.layers
    assert plan.layers == (first if first_kl < second_kl else second).layers
    assert not judge.repairs


def test_a_plan_that_is_better_on_one_half_alone_is_not_better():
    found = {"a": (1.0, 3.0), "b": (1.0, 1.5)}
    asked = []

    def repaired(plan, half):
        asked.append(half)
        return np.full(3, found[plan][half])

    def least(*kl):
        return tuple(np.full(3, x) for x in kl)

    assert better("a", least(2.0, 2.0), repaired) is None
    assert [half.tolist() for half in better("b", least(2.0, 2.0), repaired)] == [[1.0] * 3, [1.5] * 3]
    assert better("b", least(1.0, 2.0), repaired) is None
    assert asked == [
        0,
        1,
        0,
        1,
        0,
    ]


@pytest.mark.parametrize(("gain", "holds"), [(0.05, False), (0.15, False), (0.17, True), (1.0, True)])
def test_a_plan_that_is_better_by_no_more_than_chance_is_not_better(gain, holds):
    """The gain scatters by 1 over 40 windows, so that of its mean is 0.16; that of the windows themselves does not matter."""
    rng = np.random.default_rng(0)
    least, noise = rng.uniform(10, 90, 40), rng.normal(size=40)
    for half in (noise[:20], noise[20:]):
        half -= half.mean()
    found = np.split(least - gain - noise / noise.std(ddof=1), 2)
    kept = better(None, tuple(np.split(least, 2)), lambda plan, half: found[half])
    assert (kept is not None) == holds


def test_where_limits_leave_too_little_in_the_order_of_prices_hgsps_plan_stands():
    limits = {"layer_max_rate": 0.665, "min_channels": 17, "channel_multiple": 2}
    params = dict(ratio=0.6285, of="layers", query_heads=False, limits=limits)
    job = jobs.allocate_job(Search(SearchParams()))
    plan = Search(SearchParams(**params))(job)
    assert "in the order of prices, limits leave too little" in plan.notes[-1]
    assert plan.layers == HGSP(HGSPParams(temperature=0, **params))(job).layers


def test_what_cannot_be_is_said_before_anything_is_judged():
    judge = Counting()
    with pytest.raises(PlanError, match="at most"):
        Search(SearchParams(ratio=0.6, of="layers", limits={"layer_max_rate": 0.3}))(
            AllocateJob(LAYOUT, scores_of(0), None, judge)
        )
    assert not judge.found
    with pytest.raises(SweepError, match=r"12 windows are held out to judge plans, but calibrate.samples is 12"):
        Search(SearchParams(samples=12)).held_out(LAYOUT, 12)
    with pytest.raises(SweepError, match=r"Set calibrate.samples to 6 or more, or moves to 0"):
        Search(SearchParams(moves=1)).held_out(LAYOUT, 5)
    assert Search(SearchParams()).held_out(LAYOUT, 5) == Search(SearchParams(moves=1)).held_out(LAYOUT, 6) == 2
    blocks = len(LAYOUT.blocks())
    for forwards in (1, 2):  # five sizes a block, each of which runs half of the layers on the mean
        assert (
            Search(SearchParams(forwards=forwards)).held_out(LAYOUT, 100 * blocks) * blocks * 5 / 2
            == forwards * 100 * blocks
        )


def test_scores_below_zero_are_moved_as_those_above():
    class Partial(Counting):
        """Nothing is as good as the first plan, which is H-GSP's."""

        def __call__(self, plan):
            return float(super().__call__(plan)) if self.found else super().__call__(plan) * 0

    scores, asked = scores_of(3), []
    for shift in (0, -5):
        judge = Partial()
        shifted = scores.with_score(scores.score - scores.score.min() + shift)
        Search(SearchParams(ratio=0.3, of="layers", moves=4, query_heads=False))(
            AllocateJob(LAYOUT, shifted, None, judge)
        )
        asked.append([plan.layers for plan, _ in judge.repairs.values()])
    assert asked[0] == asked[1]
    assert len(asked[0]) > 2


@pytest.mark.parametrize("query_heads", [False, True])
@pytest.mark.parametrize("moves", [0, 6])
def test_what_the_step_before_removed_goes_again(moves, query_heads):
    class Moody(jobs.Growing):
        """Each block costs another factor at each step."""

        def __call__(self, plan):
            weights = np.random.default_rng(seed + 10 * step).lognormal(size=len(LAYOUT.blocks()))
            return sum(w * (1 - plan.kept_cost(b) / b.cost) ** 2 for w, b in zip(weights, LAYOUT.blocks(), strict=True))

    for seed in range(6):
        plan, judge = None, Moody(LAYOUT)
        for step, ratio in enumerate((0.15, 0.3, 0.45)):
            scores = scores_of(seed + 10 * step)
            scores = scores.last(plan) if plan else scores
            params = SearchParams(ratio=ratio, of="layers", moves=moves, query_heads=query_heads, seed=seed)
            before, plan = plan, Search(params)(AllocateJob(LAYOUT, scores, None, judge, before=plan))
            assert before is None or plan.within(before)


def test_a_move_that_holds_is_made_again():
    """Plans that are nothing but the price of attention, best at 1.1 above the start's logarithm."""
    queue, _ = prepared(SearchParams(), jobs.allocate_job(Search(SearchParams())))
    bundle = np.flatnonzero(queue.attention[queue.block])[0]
    after, score = queue.after[bundle], queue.score[bundle]
    asked = []

    def solved(order):
        mine = (order.block == queue.block[bundle]) & (order.after == after)
        offset = round(float(np.log(order.score[mine][0] / score)), 3)
        return SimpleNamespace(offset=offset, sha256=offset)

    def repaired(plan, half):
        if half == 0:
            asked.append(plan.offset)
        return np.full(2, abs(plan.offset - 1.1))

    steps = []
    params = SearchParams(moves=5)
    best, *kl = moved(solved(queue), queue, solved, repaired, params, lambda: steps.append(1))
    assert asked[:4] == [0, 0.5, 1.0, 1.5]
    assert best.offset == 1.0
    assert len(asked) == 1 + len(steps) <= 1 + params.moves
    assert kl == pytest.approx([1.1, 0.1])


def test_moves_go_in_waves_over_the_depth_and_then_to_single_blocks():
    queue, _ = prepared(SearchParams(), jobs.allocate_job(Search(SearchParams())))  # four layers
    wave = {1: [1, 0.5, -0.5, -1], 2: [1, -0.5, -0.5, 1]}
    none, one = [0] * 4, [1] * 4
    expected = [(one, none), (wave[1], none), (none, wave[1]), (wave[2], none), (none, wave[2])]
    found = list(islice(directions(queue, 0), 10 + 8))
    for up, down, (attention, mlp) in zip(found[:10:2], found[1:10:2], expected, strict=True):
        assert up == pytest.approx(np.stack([attention, mlp], 1).ravel())
        assert (down == -up).all()
    assert sorted(int(np.flatnonzero(single)[0]) for single in found[10:]) == list(range(8))
    assert all(np.abs(single).sum() == 1 for single in found[10:])


def test_prices_are_the_slopes_of_the_hull_and_rise_within_a_block():
    layout = jobs.sample_layout()
    queue, _ = prepared(SearchParams(query_heads=False), jobs.allocate_job(Search(SearchParams())))
    sizes = [tried(queue, block) for block in range(len(queue.units))]
    cost = [queue.spent_by(block, int(queue.units[block])) for block in range(len(queue.units))]
    price = priced(
        queue, sizes, lambda block, n: (block + 1) * queue.spent_by(block, n) ** 2
    )  # slope 2 (block + 1) · cost
    for block in range(len(layout.blocks())):
        mine = queue.block == block
        spent = np.cumsum(queue.cost[mine]) - queue.cost[mine] / 2
        assert (np.diff(price[mine]) >= 0).all()
        inside = spent < queue.spent_by(block, sizes[block][-2])
        assert price[mine][inside] == pytest.approx(
            2 * (block + 1) * spent[inside], abs=0.16 * 2 * (block + 1) * cost[block]
        )


def test_the_same_seed_finds_the_same_plan_and_no_limit_is_passed():
    task = jobs.allocate_job(Search(SearchParams()))
    limits = {"min_channels": 8, "channel_multiple": 4, "freeze_first": 1, "layer_max_rate": 0.6}
    params = SearchParams(ratio=0.3, of="layers", moves=10, limits=limits)
    plan, again = (Search(params)(task) for _ in range(2))
    assert plan == again
    layout = task.layout
    assert not any(b.loses for b in plan.layers[0].values())
    for index, layer in enumerate(plan.layers[1:], 1):
        assert len(layer["mlp"].kept) >= 8
        assert not layer["mlp"].loses or len(layer["mlp"].kept) % 4 == 0
        own = layout.layers[index]
        assert sum(plan.kept_cost(b) for b in own.blocks.values()) >= (1 - 0.6) * own.cost - 1


def test_the_hull_never_slopes_down_again():
    points = [(0, 0.0), (1, 0.5), (2, 0.4), (4, 2.0), (8, 2.5)]
    assert hull(points) == [(0, 0.0), (2, 0.4), (8, 2.5)]
