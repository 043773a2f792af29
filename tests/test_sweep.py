"""The sweep against plain autograd and plain forwards over the whole calibration set."""

import numpy as np
import pytest
import torch
from architectures import CONFIGS, layout_of, tiny_model
from torch.nn.functional import cosine_similarity, cross_entropy

from hgsp_core.artifacts import Statistics
from hgsp_core.errors import NumericError, SweepError
from hgsp_core.sweep import Collector, Depth, Resident, run_sweep
from hgsp_core.sweep.collectors import ResidualCosine, TaylorAbs, WeightAbs

SAMPLES, SEQ_LEN = 7, 11
ALL = [WeightAbs(), TaylorAbs(), ResidualCosine()]


@pytest.fixture(params=CONFIGS)
def model(request):
    return tiny_model(request.param)


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, 97, (SAMPLES, SEQ_LEN))


def sweep(model, tokens, collectors=ALL, batch_size=3, **settings) -> Statistics:
    layout = layout_of(model)
    return run_sweep(Resident(model, layout), layout, tokens, collectors, batch_size=batch_size, **settings)


def plain_loss(model, tokens):
    """Mean over all predicted tokens, written out."""
    ids = torch.from_numpy(tokens)
    logits = model(input_ids=ids).logits[:, :-1].float()
    return cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))


def units_by_hand(model, entries, layer, axis):
    """Sum `entries(parameter)` over each unit of a layer, by a loop over units and explicit rows and columns."""
    parameters = dict(model.named_parameters())
    config, prefix = model.config, f"model.layers.{layer}."
    per_head = {"q": config.num_attention_heads // config.num_key_value_heads, "k": 1, "v": 1, "o": 1}
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    totals = []
    for unit in range(config.num_key_value_heads if axis == "attention" else config.intermediate_size):
        total = 0.0
        for name in ("q", "k", "v") if axis == "attention" else ("gate", "up"):
            width = head_dim * per_head[name] if axis == "attention" else 1
            rows = slice(unit * width, (unit + 1) * width)
            module = f"{prefix}{'self_attn' if axis == 'attention' else 'mlp'}.{name}_proj"
            total += entries(parameters[f"{module}.weight"])[rows].double().sum()
            if f"{module}.bias" in parameters:
                total += entries(parameters[f"{module}.bias"])[rows].double().sum()
        width = head_dim * per_head["q"] if axis == "attention" else 1
        out = parameters[f"{prefix}{'self_attn.o_proj' if axis == 'attention' else 'mlp.down_proj'}.weight"]
        total += entries(out)[:, unit * width : (unit + 1) * width].double().sum()
        totals.append(total.item())
    return np.array(totals)


def test_taylor_equals_one_plain_backward_over_the_whole_set(model, tokens):
    found = sweep(model, tokens)[TaylorAbs()]
    plain_loss(model, tokens).backward()
    for layer in range(3):
        for axis in ("attention", "mlp"):
            expected = units_by_hand(model, lambda w: (w * w.grad).abs(), layer, axis)
            np.testing.assert_allclose(found[layer][axis], expected, rtol=2e-5)


def test_magnitude_is_the_sum_of_absolute_weights(model):
    found = sweep(model, None, [WeightAbs()])[WeightAbs()]
    for layer in range(3):
        for axis in ("attention", "mlp"):
            np.testing.assert_allclose(found[layer][axis], units_by_hand(model, torch.abs, layer, axis), rtol=1e-6)


def test_residual_cosine_equals_one_plain_forward(model, tokens):
    found = sweep(model, tokens)[ResidualCosine()]
    ids = torch.from_numpy(tokens)
    before, middle, after = [], [], []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda module, arguments: before.append(arguments[0].double()))
        middle_norm = layer.post_attention_layernorm
        middle_norm.register_forward_pre_hook(lambda module, arguments: middle.append(arguments[0].double()))
        layer.register_forward_hook(lambda module, arguments, output: after.append(output.double()))
    with torch.no_grad():
        model(input_ids=ids)
    for a, m, b, layer in zip(before, middle, after, found):
        for name, x, y in (("layer", a, b), ("attention", a, m), ("mlp", m, b)):
            expected = 1 - cosine_similarity(x, y, dim=-1).mean()
            np.testing.assert_allclose(layer[name], expected, rtol=1e-5, atol=1e-7)


def test_the_size_of_micro_batches_changes_nothing(model, tokens):
    once, by_two = sweep(model, tokens, batch_size=SAMPLES), sweep(model, tokens, batch_size=2)
    for collector in ALL:
        for a, b in zip(once[collector], by_two[collector]):
            for name in a:
                np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-7)


def test_a_sweep_leaves_the_model_as_it_was(model, tokens):
    next(model.parameters()).requires_grad_(False)
    required = [p.requires_grad for p in model.parameters()]
    with torch.no_grad():
        before = model(input_ids=torch.from_numpy(tokens)).logits
    sweep(model, tokens)
    assert [p.requires_grad for p in model.parameters()] == required
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(input_ids=torch.from_numpy(tokens)).logits, before)


def test_a_sweep_goes_no_deeper_than_its_collectors_need(tokens):
    model, ran = tiny_model("llama"), []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda module, arguments, output, name=name: ran.append(name))
    sweep(model, None, [WeightAbs()])
    assert ran == []
    sweep(model, tokens, [ResidualCosine()], batch_size=SAMPLES)
    assert ran.count("model.layers.1.mlp") == 1 and "lm_head" not in ran
    ran.clear()
    sweep(model, tokens, [TaylorAbs()], batch_size=SAMPLES)
    assert "lm_head" in ran and ran.count("model.layers.1.mlp") <= 2


def test_logits_of_the_whole_set_never_exist_at_once(tokens, monkeypatch):
    rows = 4
    monkeypatch.setattr("hgsp_core.sweep.loss.CHUNK_BYTES", rows * 4 * 97)
    model, seen = tiny_model("llama"), []
    expected = sweep(model, tokens, batch_size=SAMPLES)
    model.lm_head.register_forward_hook(lambda module, arguments, output: seen.append(output.shape))
    found = sweep(model, tokens, batch_size=SAMPLES)
    assert max(shape[0] for shape in seen) == rows and sum(shape[0] for shape in seen) == SAMPLES * (SEQ_LEN - 1)
    np.testing.assert_allclose(found[TaylorAbs()][0]["mlp"], expected[TaylorAbs()][0]["mlp"], rtol=1e-5)


def test_a_plugin_brings_its_own_collector(tokens):
    class Largest(Collector):
        """A collector as a third party writes it, in 4 lines."""

        depth = Depth.FORWARD

        def observe(self, layer, passage, sums):
            sums.add("layer", (passage.inputs["mlp.down_proj"] > 0).sum())

        def reduce(self, layer, sums):
            return {"layer": sums.numpy("layer") / layer.tokens}

    model = tiny_model("llama")
    found = sweep(model, tokens, [Largest()])[Largest()]
    active = []
    model.model.layers[2].mlp.down_proj.register_forward_pre_hook(lambda m, arguments: active.append(arguments[0] > 0))
    model(input_ids=torch.from_numpy(tokens))
    assert float(found[2]["layer"]) == pytest.approx(int(active[0].sum()) / tokens.size)


def test_progress_counts_every_layer_to_the_end(tokens):
    steps = []
    sweep(tiny_model("llama"), tokens, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize("collectors", [[WeightAbs()], [ResidualCosine()], [TaylorAbs()]])
def test_a_weight_that_is_not_finite_is_named(collectors, tokens):
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = float("nan")
    with pytest.raises(NumericError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        sweep(model, tokens, collectors)


@pytest.mark.parametrize("name", ["model.embed_tokens", "model.norm", "lm_head"])
def test_a_weight_outside_the_layers_that_is_not_finite_is_named(name, tokens):
    model = tiny_model("llama")
    model.get_submodule(name).weight.data[:] = float("inf")
    with pytest.raises(NumericError, match=name.replace(".", r"\.")):
        sweep(model, tokens)


def test_an_activation_out_of_range_names_its_layer(tokens):
    model = tiny_model("llama", dtype=torch.float16)
    model.model.layers[1].mlp.down_proj.weight.data.fill_(6e4)
    with pytest.raises(NumericError, match="Layer 1: .* float16"):
        sweep(model, tokens)


def test_samples_too_short_for_a_loss_are_refused():
    model = tiny_model("llama")
    with pytest.raises(SweepError, match="at least 2"):
        sweep(model, np.zeros((4, 1), dtype=np.int64))
    with pytest.raises(SweepError, match="no sample"):
        sweep(model, np.zeros((0, 8), dtype=np.int64))
