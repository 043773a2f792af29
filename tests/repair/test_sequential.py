"""Least-squares repair against numpy and torch.linalg.lstsq on stacked data, block by block through a whole model."""

import numpy as np
import pytest
import torch

from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.surgery import mask_tensors, positions
from hgsp_core.engine.elimination import eliminate
from hgsp_core.engine.obs import inverse_hessian
from hgsp_core.engine.weights import Resident
from hgsp_core.model.architecture import Axis
from hgsp_core.model.layout import BlockLayout, SliceLayout
from hgsp_core.repair.contract import BlockJob, Moments, ReadJob, Reconstructor, Repair
from hgsp_core.repair.held_out import HeldOut
from hgsp_core.repair.least_squares import RIDGES, LeastSquares
from hgsp_core.repair.least_squares_params import LeastSquaresParams
from hgsp_core.repair.ridge import Ridge
from hgsp_core.repair.sequential import repair_blocks
from tests.helpers.architectures import CONFIGS, layout_of, tiny_model

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
    changed = {}
    repair_blocks(Resident(model, layout), plan, _Always(target), tokens, 5, changed.update)
    ids = torch.from_numpy(tokens[:-2])  # the last eighth is held out
    dense = run_blocks(model, layout, model.state_dict(), ids)
    for block in layout.blocks():
        kept = plan.block(block).kept
        if not kept:
            assert block.writer.weight not in changed
            continue
        # everything before this block is repaired, nothing from it on: its input then is what the repair saw
        done = {n: t for n, t in changed.items() if _before(n, block)}
        lower = Plan(
            tuple(
                {
                    a: p if (i, a) in _blocks_before(layout, block) else full
                    for (a, p), full in zip(layer.items(), Plan.keep_all(layout).layers[i].values(), strict=True)
                }
                for i, layer in enumerate(plan.layers)
            ),
            plan.before,
            plan.target,
        )
        seen = run_blocks(model, layout, masked(model, layout, lower, done), ids)
        x = seen[block.writer.module][0].double()
        y = (dense if target == "dense" else seen)[block.writer.module][1].double()
        columns = positions(kept, block.writer.width)
        a = x[:, columns]
        ridge = 0.02 * (a.T @ a).diagonal().mean()
        stacked = torch.cat([a, ridge.sqrt() * torch.eye(a.shape[1], dtype=torch.double)])
        old = model.state_dict()[block.writer.weight][:, columns].double()
        expected = torch.linalg.lstsq(stacked, torch.cat([y, ridge.sqrt() * old.T])).solution.T
        torch.testing.assert_close(changed[block.writer.weight][:, columns].double(), expected, atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_kept_units_are_measured_as_the_pruned_model_computes_them(kind):
    """Where a norm goes over all heads, kept ones change when others are removed."""
    model = tiny_model(kind, num_key_value_heads=4)
    layout = layout_of(model)
    whole = {(b.layer, b.axis.name): range(b.units) for b in layout.blocks()}
    first = Plan.of(layout, whole | {(0, "attention"): range(2)}, 0)
    plan = Plan.of(layout, whole | {(0, "attention"): range(2), (1, "mlp"): range(9)}, 0)
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, (8, SEQ_LEN))
    looks = _Looks("own")
    repair_blocks(Resident(model, layout), plan, looks, tokens, 4, lambda tensors: None)
    ids = torch.from_numpy(tokens[:-1])  # the last eighth is held out
    dense, pruned = (run_blocks(model, layout, w, ids) for w in (model.state_dict(), masked(model, layout, first)))
    attention, mlp = looks.jobs
    x, y = (tensor.double() for tensor in dense[attention.writer.module])
    x[:, attention.columns] = pruned[attention.writer.module][0].double()[:, attention.columns]
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(attention.fit.gram.double(), x.T @ x, **close)
    torch.testing.assert_close(attention.fit.cross["own"].double(), y.T @ x, **close)
    x = pruned[mlp.writer.module][0].double()
    torch.testing.assert_close(mlp.fit.gram.double(), x.T @ x, **close)


class _Looks(Reconstructor):
    """Changes nothing, and remembers what it was handed."""

    def __init__(self, *targets):
        self.targets, self.jobs = targets, []

    def __call__(self, job):
        self.jobs.append(job)
        return Repair(job.kept, job.weight, job.bias)


class _Always(Reconstructor):
    """Applies the fit, better or not."""

    def __init__(self, target):
        self.targets = (target,)

    def __call__(self, job):
        columns = positions(job.kept, job.writer.width)
        weight = torch.zeros_like(job.weight)
        cross = job.fit.cross[self.targets[0]].double()
        if job.bias is not None:
            cross = cross - torch.outer(job.bias.double(), job.fit.total.double())
        ridge = Ridge(job.fit.gram[columns][:, columns], 0.02)
        weight[:, columns] = ridge.fit(cross[:, columns], job.weight[:, columns]).float()
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
    x = torch.randn(200, 12, generator=generator, dtype=torch.double) @ torch.randn(
        12, 12, generator=generator, dtype=torch.double
    )
    w = torch.randn(5, 12, generator=generator, dtype=torch.double)
    gram = x.T @ x
    gone, kept = [1, 4, 5, 9], [0, 2, 3, 6, 7, 8, 10, 11]
    inverse = torch.linalg.inv(gram)
    surgeon = w - w[:, gone] @ torch.linalg.inv(inverse[gone][:, gone]) @ inverse[gone]
    assert surgeon[:, gone].abs().max() < 1e-8
    found = Ridge(gram[kept][:, kept], 0.0).fit((w @ gram)[:, kept], w[:, kept])
    torch.testing.assert_close(found, surgeon[:, kept])


@pytest.mark.parametrize("bias", [None, torch.arange(5.0)])
def test_the_error_on_held_out_windows_is_the_direct_sum_over_their_tokens(bias):
    """Also where the fit is so near that an error made of sums of products would drown in rounding."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(90, 12, generator=generator) * 100, torch.randn(5, 12, generator=generator)
    noise = torch.randn(90, 5, generator=generator) * 1e-2
    y = x.double() @ w.double().T + (0 if bias is None else bias.double()) + noise.double()
    held_out = HeldOut(x.split(40), y.float().split(40))
    expected = sum(float(noise[t, i].double() ** 2) for t in range(90) for i in range(5))
    assert held_out.squared_error(w, bias) == pytest.approx(expected, rel=1e-2)
    some = torch.tensor([0, 3, 4, 7])
    loss = y - x[:, some].double() @ w[:, some].double().T - (0 if bias is None else bias.double())
    assert held_out.inputs(some).squared_error(w[:, some].double(), bias) == pytest.approx(
        float(loss.square().sum()), rel=1e-6
    )


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_repaired_model_is_nearer_to_the_dense_one(kind):
    model = tiny_model(kind)
    layout = layout_of(model)
    kept = {
        (b.layer, b.axis.name): range(b.units) if b.axis.name == "attention" else range(0, b.units, 2)
        for b in layout.blocks()
    }
    plan = Plan.of(layout, kept, 0)
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, (64, SEQ_LEN))
    repaired = {}
    final = repair_blocks(Resident(model, layout), plan, LeastSquares(LeastSquaresParams()), tokens, 8, repaired.update)
    ids = torch.from_numpy(np.random.default_rng(2).integers(0, model.config.vocab_size, (32, SEQ_LEN)))
    with torch.no_grad():
        dense = model(ids, use_cache=False).logits
        errors = []
        for cut, changed in ((plan, {}), (final, repaired)):
            weights = masked(model, layout, cut, changed)
            logits = torch.func.functional_call(model, weights, (ids,), {"use_cache": False}, tie_weights=False).logits
            errors.append(float((logits - dense).square().mean()))
    assert errors[1] < 0.9 * errors[0], errors


def moments(x, y, target):
    return Moments(len(x), x.sum(0), x.T @ x, {target: y.T @ x})


def block_of(writer):
    """A block of which nothing but its writer is looked at."""
    return BlockLayout(0, Axis("block", "units", "block", ()), "block", writer.shape[1] // writer.width, (writer,), ())


def test_a_fit_that_does_not_help_on_held_out_windows_is_not_applied():
    """One token to fit on, and held-out tokens that contradict it."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3, 4, generator=generator)
    seen, other = torch.randn(1, 4, generator=generator) * 10, torch.randn(50, 4, generator=generator)

    writer = SliceLayout("m", "o", 1, (3, 4), 1, False)
    job = BlockJob(
        block_of(writer),
        (0, 1),
        positions((0, 1), 1),
        writer,
        w,
        None,
        moments(seen, seen @ -w.T, "dense"),
        HeldOut([other], [other @ w.T]),
    )
    repaired = LeastSquares(LeastSquaresParams(target="dense", ridge=0.01))(job)
    assert torch.equal(repaired.weight[:, :2], w[:, :2])
    assert "not repaired" in repaired.note


@pytest.mark.parametrize("width", [1, 3])
def test_elimination_removes_what_costs_least_when_all_the_rest_is_refitted(width):
    """Each step against a search over all units, each removed and the rest solved by lstsq."""
    w = torch.randn(5, 12, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    fitted = w.double()
    units = eliminate(fitted, inverse_hessian(x.T @ x, 1e-9), width, 2, lambda left: 1)
    x, y = x.double(), x.double() @ w.double().T
    alive = list(range(12 // width))

    def error(kept):
        columns = positions(kept, width)
        solution = torch.linalg.lstsq(x[:, columns], y).solution
        return float((y - x[:, columns] @ solution).square().sum()), solution.T

    while len(alive) > 2:
        alive.remove(min(alive, key=lambda unit: error([u for u in alive if u != unit])[0]))
    assert units.tolist() == alive
    expected = torch.zeros_like(fitted)
    expected[:, positions(alive, width)] = error(alive)[1]
    torch.testing.assert_close(fitted, expected, atol=1e-4, rtol=1e-4)


def test_units_are_chosen_anew_where_that_does_better_and_as_many_stay_as_planned(case):
    model, layout, plan, tokens = case
    chosen = {}
    for reselect in (False, True):
        reconstructor = LeastSquares(LeastSquaresParams(reselect=reselect, readers=False))
        chosen[reselect] = repair_blocks(Resident(model, layout), plan, reconstructor, tokens, 8, lambda tensors: None)
    assert chosen[False].layers == plan.layers
    for block in layout.blocks():
        assert len(chosen[True].block(block).kept) == len(plan.block(block).kept)
    assert chosen[True].layers != plan.layers


def test_the_map_of_the_readers_is_the_ridge_solution_on_stacked_data(case):
    """What q, k and v of layer 2 read after the cuts below, led back to what they read in the dense model."""
    model, layout, plan, tokens = case
    jobs = {}

    class Watching(LeastSquares):
        def read(self, job):
            jobs[job.block and (job.block.layer, job.block.axis.name)] = job
            return super().read(job)

    repaired = {}
    final = repair_blocks(
        Resident(model, layout), plan, Watching(LeastSquaresParams(ridge=0.02, damp=False)), tokens, 8, repaired.update
    )
    name = "model.layers.2.self_attn.q_proj"
    seen = {}
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda m, args: seen.setdefault("x", []).append(args[0].flatten(0, 1))
    )
    ids = torch.from_numpy(tokens[:-2])
    below = {n: t for n, t in repaired.items() if n.startswith(("model.layers.0.", "model.layers.1."))}
    with torch.no_grad():
        model(ids, use_cache=False)
        torch.func.functional_call(
            model, masked(model, layout, final, below), (ids,), {"use_cache": False}, tie_weights=False
        )
    handle.remove()
    dense, x = (part.double() for part in seen["x"])
    ridge = 0.02 * (x.T @ x).diagonal().mean()
    stacked = torch.cat([x, ridge.sqrt() * torch.eye(x.shape[1], dtype=torch.double)])
    drift = torch.cat([dense - x, torch.zeros(x.shape[1], x.shape[1], dtype=torch.double)])
    back = torch.eye(x.shape[1], dtype=torch.double) + torch.linalg.lstsq(stacked, drift).solution.T
    job = jobs[2, "attention"]
    torch.testing.assert_close(LeastSquares(LeastSquaresParams(ridge=0.02)).read(job), back, atol=2e-4, rtol=2e-3)
    for linear in ("q_proj", "k_proj", "v_proj"):
        weight = f"model.layers.2.self_attn.{linear}.weight"
        torch.testing.assert_close(
            repaired[weight].double(), model.state_dict()[weight].double() @ back, atol=2e-4, rtol=2e-3
        )
    assert (0, "attention") not in jobs, "nothing below the first block has changed"


def test_the_head_reads_what_it_read_in_the_dense_model_where_it_is_a_tensor_of_its_own(case):
    model, layout, plan, tokens = case
    repaired = {}
    final = repair_blocks(
        Resident(model, layout),
        plan,
        LeastSquares(LeastSquaresParams(ridge=0.02, damp=False)),
        tokens,
        8,
        repaired.update,
    )
    head = repaired.pop("lm_head.weight")
    ids, found = torch.from_numpy(tokens[:-2]), []
    handle = model.lm_head.register_forward_pre_hook(lambda m, args: found.append(args[0].flatten(0, 1).double()))
    with torch.no_grad():
        for weights in (model.state_dict(), masked(model, layout, final, repaired)):
            torch.func.functional_call(model, weights, (ids,), {"use_cache": False}, tie_weights=False)
    handle.remove()
    dense, x = found
    ridge = 0.02 * (x.T @ x).diagonal().mean()
    eye = torch.eye(x.shape[1], dtype=torch.double)
    back = eye + torch.linalg.lstsq(torch.cat([x, ridge.sqrt() * eye]), torch.cat([dense - x, 0 * eye])).solution.T
    torch.testing.assert_close(head.double(), model.lm_head.weight.double() @ back, atol=2e-4, rtol=2e-3)


def test_damping_scales_each_output_by_its_spread_and_nothing_else_of_the_repair_changes(case):
    model, layout, plan, tokens = case
    found, plans = {}, {}
    for damp in (False, True):
        found[damp] = {}
        squares = LeastSquares(LeastSquaresParams(damp=damp))
        plans[damp] = repair_blocks(Resident(model, layout), plan, squares, tokens, 8, found[damp].update)
    plain, damped = found[False], found[True]
    assert plans[False] == plans[True]
    assert plain.keys() <= damped.keys()
    ids = torch.from_numpy(tokens[-2:])  # those held out
    weights = masked(model, layout, plans[False], plain)
    dense, pruned = run_blocks(model, layout, model.state_dict(), ids), run_blocks(model, layout, weights, ids)
    writers, smaller = {b.writer.weight: b.writer for b in layout.blocks()}, 0
    for name in damped:
        writer = writers.get(name)
        if writer is None:
            assert (
                name.endswith("o_proj.bias")
                or name.endswith("down_proj.bias")
                or torch.equal(damped[name], plain[name])
            )
            continue
        ratio = pruned[writer.module][1].double().var(0).sum() / dense[writer.module][1].double().var(0).sum()
        gain = min(1.0, float(ratio.sqrt()))
        columns = weights[name].abs().sum(0) > 0
        torch.testing.assert_close(damped[name][:, columns], weights[name][:, columns] * gain, rtol=1e-4, atol=1e-6)
        if writer.has_bias and gain < 1:
            torch.testing.assert_close(damped[writer.bias], weights[writer.bias] * gain, rtol=1e-4, atol=1e-6)
        smaller += gain < 0.999
    assert smaller


def test_a_head_that_is_the_embedding_stays_as_it_is():
    model = tiny_model("llama-tied")
    layout = layout_of(model)
    plan = Plan.of(layout, {(b.layer, b.axis.name): range(0, b.units, 2) for b in layout.blocks()}, 0)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (SAMPLES, SEQ_LEN))
    repaired = {}
    repair_blocks(Resident(model, layout), plan, LeastSquares(LeastSquaresParams()), tokens, 8, repaired.update)
    assert repaired
    assert all(name.startswith("model.layers.") for name in repaired)


def test_readers_that_meet_what_the_dense_model_gave_them_stay_as_they_are():
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    back = LeastSquares(LeastSquaresParams()).read(ReadJob(None, moments(x, x, "dense"), HeldOut([x], [x])))
    assert back is None or torch.allclose(back, torch.eye(8, dtype=torch.double), atol=1e-12)


@pytest.mark.parametrize(("tokens", "expected"), [(4000, 0.01), (30, 1.0)])
def test_the_fewer_the_tokens_the_larger_the_ridge(tokens, expected):
    """Old weights that are nearly right, targets with noise: what the columns would give, and what came of it."""
    generator = torch.Generator().manual_seed(3)
    truth, old = torch.randn(8, 12, generator=generator), torch.randn(8, 12, generator=generator)
    old = truth + 0.3 * old

    def seen(count):
        x = torch.randn(count, 12, generator=generator)
        return x, x @ truth.T + 2.0 * torch.randn(count, 8, generator=generator)

    kept = tuple(range(11))
    writer = SliceLayout("m", "o", 1, (8, 12), 1, False)
    fit, (x, y) = moments(*seen(tokens), "dense"), seen(2000)
    job = BlockJob(block_of(writer), kept, positions(kept, 1), writer, old, None, fit, HeldOut([x], [y]))

    def repaired(ridge):
        return LeastSquares(LeastSquaresParams(target="dense", ridge=ridge, reselect=False))(job).weight

    errors = {ridge: job.held_out.squared_error(repaired(ridge)) for ridge in RIDGES}
    assert min(errors, key=errors.get) == expected
    assert torch.equal(repaired("auto"), repaired(expected))


def runs_of_blocks(model, layout, plan, tokens):
    """Layer -> axis -> how often the first reader of the block runs in a repair, a window at a time."""
    runs = [dict.fromkeys(layer.blocks, 0) for layer in layout.layers]

    def counted(block):
        def hook(module, arguments, output):
            runs[block.layer][block.axis.name] += 1

        return hook

    handles = [model.get_submodule(b.slices[0].module).register_forward_hook(counted(b)) for b in layout.blocks()]
    try:
        squares = LeastSquares(LeastSquaresParams())
        repair_blocks(Resident(model, layout), plan, squares, tokens, 1, lambda changed: None)
    finally:
        for handle in handles:
            handle.remove()
    return runs


def test_each_block_runs_once_for_the_dense_stream_and_once_for_the_pruned_one(case):
    """What a repaired block gives follows from what its writer read; one micro-batch more shows in which form."""
    model, layout, _, tokens = case
    plan = Plan.of(layout, {(b.layer, b.axis.name): range(b.units)[1:] for b in layout.blocks()}, 0)
    for layer in runs_of_blocks(model, layout, plan, tokens):
        assert set(layer.values()) == {2 * len(tokens) + 1}


def test_below_the_first_cut_each_layer_runs_once(case):
    model, layout, _, tokens = case
    last = len(layout.layers) - 1
    plan = Plan.of(layout, {(b.layer, b.axis.name): range(b.units)[b.layer == last :] for b in layout.blocks()}, 0)
    *below, cut = runs_of_blocks(model, layout, plan, tokens)
    assert below
    for layer in below:
        assert set(layer.values()) == {len(tokens)}
    assert set(cut.values()) == {2 * len(tokens) + 1}
