"""Experts in the engine: what is measured of them is what a plain loop over tokens gives, and pruned ones are as if never chosen."""

import numpy as np
import pytest
import torch

from hgsp_core.artifacts import Plan, Scores
from hgsp_core.artifacts.surgery import prune_tensors
from hgsp_core.checkpoint.config import pruned_config
from hgsp_core.checkpoint.load import load_model
from hgsp_core.checkpoint.write import write_checkpoint
from hgsp_core.engine.collectors import OutputError, TaylorAbs, WandaAbs, WeightAbs
from hgsp_core.engine.curvature import RemovalCurvature
from hgsp_core.engine.experts import ExpertOutput, ExpertTokens
from hgsp_core.engine.likelihood import logits
from hgsp_core.engine.run import Masked, Resident, Streamed, run_sweep
from hgsp_core.engine.slopes import drawn_slopes, numbers
from hgsp_core.runtime.source import checkpoint_layout
from tests.helpers.architectures import WITH_EXPERTS, layout_of, tiny_model

TOKENS = np.random.default_rng(0).integers(1, 97, (6, 10))
EVERYTHING = [ExpertOutput(), ExpertTokens(), RemovalCurvature(), TaylorAbs(), WeightAbs(), WandaAbs(), OutputError()]
#: experts of the first layer that has some, and channels of the dense one
KEPT = [0, 2, 5]


@pytest.fixture(scope="module", params=WITH_EXPERTS)
def model(request):
    return tiny_model(request.param)


def of_experts(layout):
    return [block for block in layout.blocks() if block.routed]


@torch.no_grad()
def seen_by_experts(model, block, tokens=TOKENS):
    """(x, weights, chosen) of a block's experts: by the router's own forward, apart from the engine."""
    found = []
    branch = model.get_submodule(block.module)
    router = branch.gate
    hook = branch.register_forward_pre_hook(lambda _, given: found.append(given[0].flatten(0, 1)))
    model(torch.from_numpy(tokens), use_cache=False)
    hook.remove()
    _, weights, chosen = router(found[0])
    return found[0], weights, chosen


@torch.no_grad()
def output(model, block, expert, x):
    """What one expert makes of x [tokens, hidden], by the formula of a gated MLP."""
    weights = model.get_submodule(block.module).experts
    gate, up = (x @ weights.gate_up_proj[expert].T).chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up) @ weights.down_proj[expert].T


def test_reap_and_frequency_are_what_a_loop_over_experts_gives(model):
    layout = layout_of(model)
    found = run_sweep(Resident(model, layout), layout, TOKENS, [ExpertOutput(), ExpertTokens()], 2)
    for block in of_experts(layout):
        x, weights, chosen = seen_by_experts(model, block)
        norms, share = found[ExpertOutput()][block.layer], found[ExpertTokens()][block.layer]
        for expert in range(block.units):
            tokens, place = (chosen == expert).nonzero(as_tuple=True)
            y = output(model, block, expert, x[tokens]) * weights[tokens, place][:, None]
            expected = y.norm(dim=-1).mean().item() if len(tokens) else 0.0
            assert norms["experts"][expert] == pytest.approx(expected, rel=1e-4)
            assert share["experts"][expert] == pytest.approx(len(tokens) / len(x))
        assert share["experts"].sum() == pytest.approx(2)  # each token goes to two


def test_an_expert_without_tokens_counts_nothing(model):
    layout = layout_of(model)
    few = TOKENS[:1, :2]
    found = run_sweep(Resident(model, layout), layout, few, [ExpertOutput(), ExpertTokens(), RemovalCurvature()])
    block = of_experts(layout)[0]
    unused = found[ExpertTokens()][block.layer]["experts"] == 0
    assert unused.any()
    for collector in (ExpertOutput(), RemovalCurvature()):
        assert (found[collector][block.layer]["experts"][unused] == 0).all()


def test_the_price_of_an_expert_is_the_curvature_along_its_outputs(model):
    """½ · mean over tokens of yᵀ B y · tokens / predicted, with gradients by plain autograd."""
    layout = layout_of(model)
    found = run_sweep(Resident(model, layout), layout, TOKENS, [RemovalCurvature()])[RemovalCurvature()]
    for block in of_experts(layout):
        x, weights, chosen = seen_by_experts(model, block)
        g = gradients(model, layout, block)
        metric = g.T @ g / len(g)
        predicted = TOKENS.size - len(TOKENS)
        for expert in range(block.units):
            tokens, place = (chosen == expert).nonzero(as_tuple=True)
            y = output(model, block, expert, x[tokens]).double() * weights[tokens, place][:, None]
            expected = 0.5 * torch.einsum("ti,ij,tj->", y, metric, y) / len(x) * TOKENS.size / predicted
            assert found[block.layer]["experts"][expert] == pytest.approx(expected.item(), rel=1e-3, abs=1e-12)


def gradients(model, layout, block):
    """[tokens, hidden] fp64: of -log p of the tokens that the engine draws, by what the block gives."""
    kept = []
    module = model.get_submodule(block.module)
    hook = module.register_forward_hook(lambda _, given, y: kept.append(y) or y.retain_grad())
    ids = torch.from_numpy(TOKENS)
    last = []
    end = model.model.norm.register_forward_pre_hook(lambda _, given: last.append(given[0]))
    with torch.enable_grad():
        model(ids, use_cache=False)
    hook.remove(), end.remove()
    source = Resident(model, layout)
    from hgsp_core.engine.batches import embed

    batches, _ = embed(source, TOKENS, len(TOKENS))
    scale, slopes = drawn_slopes(source, batches, [last[0].detach()], numbers(TOKENS.shape))
    last[0].backward(slopes[0])
    model.zero_grad()
    return kept[0].grad.flatten(0, 1).double() / scale


def test_micro_batches_and_streamed_weights_give_what_one_batch_gives(model, tmp_path):
    model.save_pretrained(tmp_path / "hub")
    layout = checkpoint_layout(tmp_path / "hub")
    resident = run_sweep(Resident(model, layout), layout, TOKENS, EVERYTHING, len(TOKENS))
    streamed = run_sweep(Streamed(tmp_path / "hub", layout, torch.float32), layout, TOKENS, EVERYTHING, 2, memory="cpu")
    for collector in EVERYTHING:
        for a, b in zip(resident[collector], streamed[collector], strict=True):
            assert a.keys() == b.keys()
            for name in a:
                np.testing.assert_allclose(a[name], b[name], rtol=2e-4, atol=1e-6 * np.abs(a[name]).max())


def pruned(model):
    """(layout, plan): other experts and units gone in each layer."""
    layout = layout_of(model)
    kept = {(b.layer, b.axis.name): KEPT if b.routed and b.layer != 2 else range(b.units) for b in layout.blocks()}
    first = next(b for b in layout.blocks() if b.axis.cache)
    return layout, Plan.of(layout, {**kept, (first.layer, "attention"): [1]}, 0)


def test_the_engine_runs_a_plan_as_the_checkpoint_that_it_leaves(model, tmp_path):
    layout, plan = pruned(model)
    config = pruned_config(layout, plan)
    write_checkpoint(prune_tensors(model.state_dict().items(), layout, plan), config, tmp_path, tmp_path / "pruned")
    with torch.no_grad():
        expected = load_model(tmp_path / "pruned")[0](torch.from_numpy(TOKENS), use_cache=False).logits
    before = {name: (id(p), p.clone()) for name, p in model.named_parameters()}
    found = logits(Masked(Resident(model, layout), plan), TOKENS)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    for name, parameter in model.named_parameters():  # the model is as it was
        assert (id(parameter), True) == (before[name][0], torch.equal(parameter, before[name][1]))
    assert all(m.num_experts == 6 for m in model.modules() if "num_experts" in vars(m))


def test_statistics_of_a_pruned_model_have_a_number_for_every_expert_of_the_original(model):
    layout, plan = pruned(model)
    found = run_sweep(Masked(Resident(model, layout), plan), layout, TOKENS, EVERYTHING)
    for block in of_experts(layout):
        kept = list(plan.block(block).kept)
        gone = [expert for expert in range(block.units) if expert not in kept]
        for collector in (ExpertOutput(), ExpertTokens(), RemovalCurvature(), TaylorAbs(), WeightAbs()):
            values = found[collector][block.layer]["experts"]
            assert values.shape == (block.units,)
            assert (values[gone] == 0).all()
        assert found[ExpertTokens()][block.layer]["experts"].sum() == pytest.approx(2)
        assert (found[WeightAbs()][block.layer]["experts"][kept] > 0).all()


def test_scorers_that_need_a_writer_say_nothing_of_experts(model):
    layout = layout_of(model)
    for collector in (WandaAbs(), OutputError()):
        found = run_sweep(Resident(model, layout), layout, TOKENS, [collector])[collector]
        assert all("experts" not in layer for layer in found)
        scores = Scores.of(layout, found)
        assert scores.scored(layout).tolist() == [not block.routed for block in layout.blocks()]
