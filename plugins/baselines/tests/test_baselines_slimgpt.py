"""SlimGPT against closed forms and brute force, in numpy."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hgsp_baselines.slimgpt import SlimGPT
from hgsp_baselines.slimgpt_params import SlimGPTParams
from hgsp_baselines.slimgpt_rates import SlimGPTRates, SlimGPTRatesParams, log_increasing
from pydantic import ValidationError

from hgsp_core import Axis
from hgsp_core.allocate.contract import AllocateJob
from hgsp_core.artifacts.surgery import positions
from hgsp_core.engine.obs import inverse_hessian, removal_errors
from hgsp_core.model.layout import BlockLayout, SliceLayout
from hgsp_core.repair.contract import BlockJob, Moments
from hgsp_core.repair.held_out import HeldOut
from hgsp_core.testing import jobs
from hgsp_core.testing.model import sample_layout

OUT = 7


def block_job(x, w, units, kept, attention):
    """A job on inputs x [tokens, in] and a writer w [out, in]; the kept units that the plan names are arbitrary."""
    writer = SliceLayout("layer", "writer", 1, w.shape, w.shape[1] // units, False)
    axis = Axis("block", "units", "block", (), cache=("k",) if attention else ())
    block = BlockLayout(0, axis, "block", units, (writer,), ())
    x = torch.from_numpy(x).float()
    moments = Moments(len(x), x.sum(0), x.T @ x, {})
    return BlockJob(
        block,
        tuple(range(kept)),
        positions(range(kept), writer.width),
        writer,
        torch.from_numpy(w).float(),
        None,
        moments,
        HeldOut([], []),
    )


def data(columns, seed=0, tokens=300):
    """Inputs that depend on each other, and a writer."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(tokens, columns)) @ (np.eye(columns) + 0.4 * generator.normal(size=(columns, columns)))
    return x, generator.normal(size=(OUT, columns))


def direct(x, w, columns, damping):
    """argmin of ‖(Ŵ − W) Xᵀ‖² + λ‖Ŵ − W‖² over Ŵ that are 0 outside `columns`, and that minimum."""
    h = x.T @ x
    h = h + damping * h.diagonal().mean() * np.eye(len(h))
    best = np.zeros_like(w)
    best[:, columns] = np.linalg.solve(h[np.ix_(columns, columns)], (w @ h)[:, columns].T).T
    return best, np.trace((best - w) @ h @ (best - w).T)


def columns_of(units, width):
    return [unit * width + i for unit in units for i in range(width)]


CASES = {
    "attention groups": dict(units=6, width=4, kept=3, attention=True, params={}),
    "channels one by one": dict(
        units=30, width=1, kept=11, attention=False, params=dict(smallest_batch=1, largest_batch=1)
    ),
    "channels in batches": dict(
        units=60, width=1, kept=13, attention=False, params=dict(smallest_batch=2, largest_batch=16)
    ),
    "all channels at once": dict(
        units=20, width=1, kept=4, attention=False, params=dict(smallest_batch=64, largest_batch=64)
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_update_is_the_direct_solution_for_the_chosen_set(case):
    x, w = data(case["units"] * case["width"])
    repair = SlimGPT(SlimGPTParams(**case["params"]))(block_job(x, w, case["units"], case["kept"], case["attention"]))
    assert len(repair.kept) == case["kept"]
    assert repair.bias is None
    expected, _ = direct(x, w, columns_of(repair.kept, case["width"]), 0.01)
    assert np.allclose(repair.weight.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_without_damping_the_update_is_plain_least_squares():
    x, w = data(24)
    repair = SlimGPT(SlimGPTParams(damping=1e-9))(block_job(x, w, 6, 4, attention=True))
    columns = columns_of(repair.kept, 4)
    expected = np.linalg.lstsq(x[:, columns], x @ w.T, rcond=None)[0].T
    assert np.allclose(repair.weight.numpy()[:, columns], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("units", "width", "attention"), [(6, 3, True), (9, 1, False)])
def test_the_first_unit_to_go_is_the_best_of_all(units, width, attention, seed):
    x, w = data(units * width, seed)
    repair = SlimGPT(SlimGPTParams())(block_job(x, w, units, units - 1, attention))
    cost = {kept: direct(x, w, columns_of(kept, width), 0.01)[1] for kept in combinations(range(units), units - 1)}
    assert repair.kept == min(cost, key=cost.get)


def test_the_error_of_each_unit_is_what_its_removal_costs():
    x, w = data(12)
    errors = removal_errors(torch.from_numpy(w), inverse_hessian(torch.from_numpy(x.T @ x), 0.01), width=3)
    expected = [direct(x, w, columns_of(set(range(4)) - {unit}, 3), 0.01)[1] for unit in range(4)]
    assert errors.numpy() == pytest.approx(expected)


@pytest.mark.parametrize("attention", [True, False])
def test_of_two_equal_inputs_one_stays_and_takes_over_the_other(attention):
    """The inverse Hessian is updated after each step: a choice made once would remove both, as each alone is free to go."""
    x, w = data(4)
    x, w = np.hstack([x, x]), np.hstack([w, w])
    params = SlimGPTParams(damping=1e-6, smallest_batch=1, largest_batch=1)
    repair = SlimGPT(params)(block_job(x, w, 8, 4, attention))
    assert sorted(unit % 4 for unit in repair.kept) == [0, 1, 2, 3]
    assert np.allclose(x @ repair.weight.numpy().T, x @ w.T, atol=1e-2)


def test_inputs_that_are_all_zero_still_give_a_finite_repair():
    _, w = data(6)
    repair = SlimGPT(SlimGPTParams())(block_job(np.zeros((10, 6)), w, 6, 3, attention=False))
    assert repair.weight.isfinite().all()
    assert len(repair.kept) == 3


def test_batches_out_of_order_are_refused():
    with pytest.raises(ValidationError, match="smallest_batch"):
        SlimGPTParams(smallest_batch=64, largest_batch=8)


def test_rates_grow_with_the_logarithm_of_depth():
    assert log_increasing(4, 0.2) == pytest.approx([0.2, 0.6, 0.2 + 0.8 * np.log(3) / np.log(4), 1.0])
    assert (log_increasing(3, 1.0) == 1).all()
    assert log_increasing(1, 0.2).tolist() == [1]


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.35])
def test_layers_lose_by_their_rates_and_the_budget_is_met_to_one_unit(ratio):
    layout = sample_layout()
    plan = SlimGPTRates(SlimGPTRatesParams(ratio=ratio, of="layers"))(AllocateJob(layout, jobs.scores(), None))
    budget = ratio * layout.layer_parameters
    assert 0 <= budget - plan.removed(layout) < min(block.unit_cost for block in layout.blocks())
    lost = [
        sum(b.unit_cost * (b.units - len(plan.block(b).kept)) for b in layer.blocks.values()) / layer.cost
        for layer in layout.layers
    ]
    wanted = log_increasing(len(lost), 0.2)
    wanted *= ratio / wanted.mean()
    group = max(block.unit_cost for block in layout.blocks()) / layout.layers[0].cost
    assert np.abs(np.array(lost) - wanted).max() < group  # rates are of whole units
    assert lost[0] < lost[-1]
