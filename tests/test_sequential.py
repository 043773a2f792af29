"""Least-squares repair against numpy and torch.linalg.lstsq on stacked data, block by block through a whole model."""

import numpy as np
import pytest
import torch
from architectures import CONFIGS, layout_of, tiny_model

from hgsp_core.artifacts import Plan
from hgsp_core.builtin.least_squares import LeastSquares, fit, squared_error
from hgsp_core.builtin.least_squares_params import LeastSquaresParams
from hgsp_core.surgery import mask_tensors, positions
from hgsp_core.sweep import Resident
from hgsp_core.sweep.sequential import repair
from hgsp_core.types import Moments

SAMPLES, SEQ_LEN = 16, 12


@pytest.fixture(scope="module")
def case():
    """A tiny model, a plan that cuts everywhere and removes one block, and tokens."""
    model = tiny_model("llama")
    layout = layout_of(model)
    kept = {}
    for b in layout.blocks():
        kept[b.layer, b.axis.name] = range(b.units)[1:] if b.axis.name == "attention" else range(0, b.units, 2)
    kept[1, "attention"] = ()
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (SAMPLES, SEQ_LEN))
    return model, layout, Plan.of(layout, kept, 0), tokens


def run_blocks(model, layout, weights, ids):
    """Independent of the sweep: writer inputs and block outputs of a whole forward, by hooks on the model."""
    seen = {}
    handles = []
    for b in layout.blocks():
        def hook(module, arguments, output, name=b.writer.module):
            seen[name] = (arguments[0].detach().flatten(0, 1), output.detach().flatten(0, 1))
        handles.append(model.get_submodule(b.writer.module).register_forward_hook(hook))
    with torch.no_grad():
        torch.func.functional_call(model, weights, (ids,), {"use_cache": False}, tie_weights=False)
    for handle in handles:
        handle.remove()
    return seen


def masked(model, layout, plan, changed=None):
    tensors = {**model.state_dict(), **(changed or {})}
    return dict(mask_tensors(tensors.items(), layout, plan))


@pytest.mark.parametrize("target", ["own", "dense"])
def test_the_repair_of_each_block_is_the_ridge_solution_on_stacked_data(case, target):
    model, layout, plan, tokens = case
    reconstructor = LeastSquares(LeastSquaresParams(target=target, ridge=0.02))
    guard_free = type("NoGuard", (), {"targets": reconstructor.targets, "__call__": lambda self, job: _always(job, target)})()
    outcome = repair(Resident(model, layout), plan, guard_free, tokens, batch_size=5)
    ids = torch.from_numpy(tokens[:-2])  # the last eighth is held out
    dense = run_blocks(model, layout, model.state_dict(), ids)
    for block in layout.blocks():
        kept = plan.block(block).kept
        if not kept:
            assert block.writer.weight not in outcome.tensors
            continue
        # everything before this block is repaired, nothing from it on: its input then is what the repair saw
        done = {n: t for n, t in outcome.tensors.items() if _before(n, block)}
        lower = Plan(
            tuple({a: p if (i, a) in _blocks_before(layout, block) else full for (a, p), full in zip(layer.items(), Plan.keep_all(layout).layers[i].values())}
                  for i, layer in enumerate(plan.layers)), plan.before, plan.target)
        seen = run_blocks(model, layout, masked(model, layout, lower, done), ids)
        x = seen[block.writer.module][0].double()
        y = (dense if target == "dense" else seen)[block.writer.module][1].double()
        columns = positions(kept, block.writer.width)
        a = x[:, columns]
        ridge = 0.02 * (a.T @ a).diagonal().mean()
        stacked = torch.cat([a, ridge.sqrt() * torch.eye(a.shape[1], dtype=torch.double)])
        expected = torch.linalg.lstsq(stacked, torch.cat([y, torch.zeros(a.shape[1], y.shape[1], dtype=torch.double)])).solution.T
        torch.testing.assert_close(outcome.tensors[block.writer.weight][:, columns].double(), expected, atol=2e-4, rtol=2e-3)


def _always(job, target):
    from hgsp_core.types import Repair

    columns = positions(job.kept, job.writer.width)
    weight = torch.zeros_like(job.weight)
    weight[:, columns] = fit(columns, job.bias, job.fit, target, 0.02).float()
    return Repair(job.kept, weight, job.bias)


def _blocks_before(layout, block):
    order = [(b.layer, b.axis.name) for b in layout.blocks()]
    return set(order[: order.index((block.layer, block.axis.name))])


def _before(name, block):
    layer = int(name.split(".")[2])
    return layer < block.layer or (layer == block.layer and block.axis.name == "mlp" and "self_attn" in name)


def test_the_own_target_is_the_optimal_brain_surgeon_update():
    """Hassibi & Stork: removing the columns Q from w changes the others by −w_Q [(H⁻¹)_QQ]⁻¹ (H⁻¹)_Q,:."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 12, generator=generator, dtype=torch.double) @ torch.randn(12, 12, generator=generator, dtype=torch.double)
    w = torch.randn(5, 12, generator=generator, dtype=torch.double)
    gram = x.T @ x
    gone, kept = [1, 4, 5, 9], [0, 2, 3, 6, 7, 8, 10, 11]
    inverse = torch.linalg.inv(gram)
    surgeon = w - w[:, gone] @ torch.linalg.inv(inverse[gone][:, gone]) @ inverse[gone]
    assert surgeon[:, gone].abs().max() < 1e-8
    moments = Moments(200, x.sum(0), gram, {"own": w @ gram}, {"own": float((x @ w.T).square().sum())})
    torch.testing.assert_close(fit(torch.tensor(kept), None, moments, "own", 0.0), surgeon[:, kept])
    error = (x @ w.T - x @ surgeon.T).square().sum()
    assert squared_error(surgeon, None, moments, "own") == pytest.approx(float(error), rel=1e-6)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_repaired_model_is_nearer_to_the_dense_one(kind):
    model = tiny_model(kind)
    layout = layout_of(model)
    kept = {(b.layer, b.axis.name): range(b.units) if b.axis.name == "attention" else range(0, b.units, 2) for b in layout.blocks()}
    plan = Plan.of(layout, kept, 0)
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, (64, SEQ_LEN))
    outcome = repair(Resident(model, layout), plan, LeastSquares(LeastSquaresParams()), tokens, 8)
    ids = torch.from_numpy(np.random.default_rng(2).integers(0, model.config.vocab_size, (32, SEQ_LEN)))
    with torch.no_grad():
        dense = model(ids, use_cache=False).logits
        errors = []
        for changed in ({}, outcome.tensors):
            weights = masked(model, layout, plan, changed)
            logits = torch.func.functional_call(model, weights, (ids,), {"use_cache": False}, tie_weights=False).logits
            errors.append(float((logits - dense).square().mean()))
    assert errors[1] < 0.9 * errors[0], errors


def test_a_fit_that_does_not_help_on_held_out_windows_is_not_applied():
    """One token to fit on, and held-out tokens that contradict it."""
    from hgsp_core.layout import SliceLayout
    from hgsp_core.types import BlockJob

    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3, 4, generator=generator)
    seen, other = torch.randn(1, 4, generator=generator) * 10, torch.randn(50, 4, generator=generator)

    def moments(x, y):
        return Moments(len(x), x.sum(0), x.T @ x, {"own": y.T @ x}, {"own": float(y.square().sum())})

    job = BlockJob(
        None, (0, 1), positions((0, 1), 1), SliceLayout("m.o", 1, (3, 4), 1, False), w, None, moments(seen, seen @ -w.T), moments(other, other @ w.T)
    )
    repaired = LeastSquares(LeastSquaresParams(target="own"))(job)
    assert torch.equal(repaired.weight[:, :2], w[:, :2]) and "not repaired" in repaired.note
