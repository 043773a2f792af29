"""The sweep against plain autograd and plain forwards over the whole calibration set."""

import gc
import re

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from hgsp_core.artifacts import Statistics
from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.engine.collectors import (
    GradientScale,
    Gram,
    InputMoments,
    InputNorm,
    OutputNorm,
    RemovalLoss,
    ResidualCosine,
    TaylorAbs,
    TaylorCurvature,
    WandaAbs,
    WeightAbs,
    WeightSquare,
)
from hgsp_core.engine.errors import EngineError
from hgsp_core.engine.run import Collector, Depth, run_sweep
from hgsp_core.engine.weights import Resident, Streamed
from hgsp_core.errors import NumericError
from tests.helpers.architectures import CONFIGS, layout_of, tiny_model

SAMPLES, SEQ_LEN, LAYERS = 7, 11, 3
AXES = ("attention", "mlp")
ALL = [
    WeightAbs(),
    WeightSquare(),
    TaylorAbs(),
    GradientScale(),
    TaylorCurvature(batch=2),
    ResidualCosine(),
    OutputNorm(),
    InputNorm(),
    InputMoments(),
    WandaAbs(),
    Gram(),
    RemovalLoss(samples=5),
]


@pytest.fixture(params=CONFIGS)
def model(request):
    return tiny_model(request.param)


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, 97, (SAMPLES, SEQ_LEN))


@pytest.fixture(params=["resident", "streamed"])
def source_of(request, tmp_path):
    """Makes the weight source of a model: the model itself, or a directory of small shards."""

    def source(model):
        if request.param == "resident":
            return Resident(model, layout_of(model))
        model.save_pretrained(tmp_path, max_shard_size="40KB")
        return Streamed(tmp_path, layout_of(model), model.dtype)

    return source


def sweep(model, tokens, collectors=ALL, batch_size=3, **settings) -> Statistics:
    return sweep_of(Resident(model, layout_of(model)), tokens, collectors, batch_size, **settings)


def sweep_of(source, tokens, collectors, batch_size=3, **settings) -> Statistics:
    return run_sweep(source, source.layout, tokens, collectors, batch_size, **settings)


def plain_loss(model, tokens):
    """Mean over all predicted tokens, written out."""
    ids = torch.from_numpy(tokens)
    logits = model(input_ids=ids).logits[:, :-1].float()
    return cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))


def rows_by_hand(config, parameters, module, name, head_dim):
    """(tensor, its first row) of the weight, the bias and the norm over all heads of q, k, v, gate or up, where they are."""
    heads, groups = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    fused = {"q": ("qkv", 0), "k": ("qkv", heads), "v": ("qkv", heads + groups)}
    fused |= {"gate": ("gate_up", 0), "up": ("gate_up", config.intermediate_size)}
    linear, first = (name, 0) if f"{module}.{name}_proj.weight" in parameters else fused[name]
    named = [(f"{linear}_proj.weight", first), (f"{linear}_proj.bias", first)]
    if config.model_type.startswith("olmo"):
        named.append((f"{name}_norm.weight", 0))
    return [(parameters[f"{module}.{n}"], first) for n, first in named if f"{module}.{n}" in parameters]


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
            module = f"{prefix}{'self_attn' if axis == 'attention' else 'mlp'}"
            for tensor, first in rows_by_hand(config, parameters, module, name, head_dim):
                total += entries(tensor)[first + unit * width : first + (unit + 1) * width].double().sum()
        width = head_dim * per_head["q"] if axis == "attention" else 1
        out = parameters[f"{prefix}{'self_attn.o_proj' if axis == 'attention' else 'mlp.down_proj'}.weight"]
        total += entries(out)[:, unit * width : (unit + 1) * width].double().sum()
        totals.append(total.item())
    return np.array(totals)


#: what reads the stream between the blocks, where it is not the norm of this name
READS_MIDDLE = {
    "gemma2": "pre_feedforward_layernorm",
    "gemma3_text": "pre_feedforward_layernorm",
    "olmo2": "mlp",
    "olmo3": "mlp",
}


def activations(model, tokens):
    """One plain forward over the whole set: layer -> {name: fp64}, the stream at three places and the linears' inputs."""
    middle = READS_MIDDLE.get(model.config.model_type, "post_attention_layernorm")
    seen = [{} for _ in model.model.layers]

    def keep(place, name):
        return lambda module, arguments: place.__setitem__(name, arguments[0].double())

    def keep_output(place, name):
        def hook(module, arguments, output):
            place[name] = (output[0] if isinstance(output, tuple) else output).double()

        return hook

    hooks = []
    for place, layer in zip(seen, model.model.layers, strict=True):
        hooks.append(layer.register_forward_pre_hook(keep(place, "before")))
        hooks.append(layer.get_submodule(middle).register_forward_pre_hook(keep(place, "middle")))
        hooks.append(layer.register_forward_hook(keep_output(place, "after")))
        for name, module in layer.named_modules():
            if name.endswith("_proj"):
                hooks.append(module.register_forward_pre_hook(keep(place, name)))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(tokens))
    for hook in hooks:
        hook.remove()
    return seen


def test_taylor_equals_one_plain_backward_over_the_whole_set(model, tokens, source_of):
    found = sweep_of(source_of(model), tokens, [TaylorAbs()])[TaylorAbs()]
    plain_loss(model, tokens).backward()
    for layer in range(LAYERS):
        for axis in AXES:
            expected = units_by_hand(model, lambda w: (w * w.grad).abs(), layer, axis)
            np.testing.assert_allclose(found[layer][axis], expected, rtol=2e-5)


def test_the_scale_of_gradients_is_that_of_one_plain_backward(model, tokens, source_of):
    found = sweep_of(source_of(model), tokens, [GradientScale()])[GradientScale()]
    plain_loss(model, tokens).backward()
    all_heads = model.config.model_type.startswith("olmo")
    for layer, own in zip(model.model.layers, found, strict=True):
        of_units = [p.grad.double().abs().flatten() for n, p in layer.named_parameters() if prunable(n, all_heads)]
        g = torch.cat(of_units).numpy()
        expected = {"mean": g.mean(), "std": g.std(), "norm": np.sqrt((g**2).sum()), "max": g.max(), "min": g.min()}
        assert own.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(own[name], value, rtol=1e-4, atol=1e-7 * g.max(), err_msg=name)


def prunable(name: str, all_heads: bool) -> bool:
    """All linears' weights, the biases that follow rows of units (not those of o_proj and down_proj), norms of all heads."""
    if all_heads and name.split(".")[-2] in ("q_norm", "k_norm"):
        return True
    return "_proj." in name and (name.endswith("weight") or name.split(".")[-2] not in ("o_proj", "down_proj"))


def test_curvature_equals_one_plain_backward_for_each_batch(model, tokens, source_of):
    collector = TaylorCurvature(batch=2)
    found = sweep_of(source_of(model), tokens, [collector])[collector]
    squares = {parameter: 0 for parameter in model.parameters()}
    starts = range(0, SAMPLES, 2)  # the last batch has one sample
    for start in starts:
        model.zero_grad()
        plain_loss(model, tokens[start : start + 2]).backward()
        squares = {parameter: square + parameter.grad**2 for parameter, square in squares.items()}
    for layer in range(LAYERS):
        for axis in AXES:
            expected = units_by_hand(model, lambda w: w**2 * squares[w] / len(starts) / 2, layer, axis)
            np.testing.assert_allclose(found[layer][axis], expected, rtol=5e-5)


@pytest.mark.parametrize(("collector", "entry"), [(WeightAbs(), torch.abs), (WeightSquare(), torch.square)])
def test_sums_of_weights_need_no_tokens(model, source_of, collector, entry):
    found = sweep_of(source_of(model), None, [collector])[collector]
    for layer in range(LAYERS):
        for axis in AXES:
            np.testing.assert_allclose(found[layer][axis], units_by_hand(model, entry, layer, axis), rtol=1e-6)


def test_activation_statistics_equal_one_plain_forward(model, tokens, source_of):
    names = {name for name, _ in model.model.layers[0].named_modules()}
    linears_of_gram = ("mlp.down_proj", *({"self_attn.q_proj", "self_attn.qkv_proj"} & names))
    collectors = [ResidualCosine(), OutputNorm(), InputNorm(), InputMoments(), Gram(linears_of_gram)]
    statistics = sweep_of(source_of(model), tokens, collectors)
    cosine, norm, inputs, moments, gram = (statistics[collector] for collector in collectors)
    for i, seen in enumerate(activations(model, tokens)):
        stream = {"layer": ("before", "after"), "attention": ("before", "middle"), "mlp": ("middle", "after")}
        for name, (before, after) in stream.items():
            expected = 1 - cosine_similarity(seen[before], seen[after], dim=-1).mean()
            np.testing.assert_allclose(cosine[i][name], expected, rtol=1e-5, atol=1e-7)
        added = {axis: seen[after] - seen[before] for axis, (before, after) in stream.items() if axis in AXES}
        for name, output in {"layer": seen["after"], **added}.items():
            np.testing.assert_allclose(norm[i][name], output.norm(dim=-1).mean(), rtol=1e-5)
        linears = [name for name in seen if name.endswith("_proj")]
        assert set(inputs[i]) == set(linears)
        assert {"self_attn.o_proj", "mlp.down_proj"} < set(linears)
        for linear in linears:
            x = seen[linear].flatten(0, 1)
            np.testing.assert_allclose(inputs[i][linear], x.norm(dim=0), rtol=1e-5)
            np.testing.assert_allclose(moments[i][f"{linear}.mean"], x.mean(0), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(moments[i][f"{linear}.variance"], x.var(0, correction=0), rtol=1e-4)
        for linear in gram[i]:
            x = seen[linear].flatten(0, 1)
            np.testing.assert_allclose(gram[i][linear], x.T @ x, rtol=1e-4, atol=1e-5 * x.square().sum(0).max())
        assert set(gram[i]) == set(linears_of_gram)


def test_wanda_weighs_each_weight_with_the_norm_of_its_input(model, tokens, source_of):
    found = sweep_of(source_of(model), tokens, [WandaAbs()])[WandaAbs()]
    names = {parameter: name for name, parameter in model.named_parameters()}
    for i, seen in enumerate(activations(model, tokens)):

        def entries(w):
            if w.dim() == 1:
                return torch.zeros_like(w)  # a bias has no input
            linear = re.sub(r"model\.layers\.\d+\.|\.weight", "", names[w])
            return w.abs() * seen[linear].flatten(0, 1).norm(dim=0)

        for axis in AXES:
            np.testing.assert_allclose(found[i][axis], units_by_hand(model, entries, i, axis), rtol=1e-5)


def test_removal_losses_equal_those_of_models_without_the_block_or_layer(model, tokens, source_of):
    collector = RemovalLoss(samples=5)
    found = sweep_of(source_of(model), tokens, [collector], batch_size=2)[collector]
    some = tokens[:5]

    class Nothing(torch.nn.Module):
        def __init__(self, is_attention):
            super().__init__()
            self.is_attention = is_attention

        def forward(self, hidden_states, **kwargs):
            zero = torch.zeros_like(hidden_states)
            return (zero, None) if self.is_attention else zero

    with torch.no_grad():
        base = plain_loss(model, some)
        for i, layer in enumerate(model.model.layers):
            for axis, attribute in (("attention", "self_attn"), ("mlp", "mlp")):
                block = getattr(layer, attribute)
                setattr(layer, attribute, Nothing(axis == "attention"))
                np.testing.assert_allclose(found[i][axis], plain_loss(model, some) - base, rtol=1e-4, atol=2e-6)
                setattr(layer, attribute, block)
            forward = layer.forward
            layer.forward = lambda hidden_states, *args, **kwargs: hidden_states
            np.testing.assert_allclose(found[i]["layer"], plain_loss(model, some) - base, rtol=1e-4, atol=2e-6)
            layer.forward = forward


def equal(a: Statistics, b: Statistics, collectors=ALL, rtol=1e-5):
    for collector in collectors:
        for x, y in zip(a[collector], b[collector], strict=True):
            assert x.keys() == y.keys()
            assert x
            for name in x:
                # a removal loss is a difference of losses, and as exact as they are
                scale = np.log(97) if isinstance(collector, RemovalLoss) else np.abs(x[name]).max()
                place = f"{collector} {name}"
                np.testing.assert_allclose(x[name], y[name], rtol=rtol, atol=rtol * scale, err_msg=place)


def test_the_size_of_micro_batches_changes_nothing(model, tokens):
    equal(sweep(model, tokens, batch_size=SAMPLES), sweep(model, tokens, batch_size=2))


@pytest.mark.parametrize("memory", ["graphs", "device", "cpu", "disk"])
def test_where_the_sweep_keeps_its_streams_changes_nothing(memory, tokens):
    model, said = tiny_model("qwen2"), []
    found = sweep(model, tokens, memory=memory, say=said.append)
    equal(found, sweep(model, tokens, batch_size=SAMPLES))
    assert len(said) == 1
    assert "GiB" in said[0]


def test_each_layer_is_run_once_where_graphs_are_kept_and_twice_where_not(tokens):
    for memory, runs in (("graphs", 1), ("device", 2)):
        model, ran = tiny_model("llama"), []
        model.model.layers[1].mlp.register_forward_hook(lambda *_: ran.append(1))
        sweep(model, tokens, [TaylorAbs()], batch_size=SAMPLES, memory=memory)
        assert len(ran) == runs


def test_the_gradients_of_one_layer_exist_at_a_time(tokens):
    def storages(shape):
        gc.collect()
        alive = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape == shape]
        return {t.untyped_storage().data_ptr() for t in alive}

    of_other_tests = storages((48, 32))

    class Alive(Collector):
        depth = Depth.BACKWARD

        def reduce(self, layer, sums):
            shape = layer.gradients[f"{layer.layout.module}.mlp.up_proj.weight"].shape
            assert shape == (48, 32)
            return {"layer": np.array(len(storages(shape) - of_other_tests))}

    model = tiny_model("llama", num_hidden_layers=6)
    alive = [int(layer["layer"]) for layer in sweep(model, tokens, [Alive()], memory="device")[Alive()]]
    assert max(alive) <= 6  # gate and up of one layer: weights, summed gradients, the last micro-batch's gradients


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
    assert ran.count("model.layers.1.mlp") == 1
    assert "lm_head" not in ran
    ran.clear()
    sweep(model, tokens, [TaylorAbs()], batch_size=SAMPLES, memory="device")
    assert "lm_head" in ran
    assert ran.count("model.layers.1.mlp") == 2


def test_logits_of_the_whole_set_never_exist_at_once(tokens, monkeypatch):
    rows = 4
    monkeypatch.setattr("hgsp_core.engine.loss.CHUNK_BYTES", rows * 4 * 97)
    model, seen = tiny_model("llama"), []
    expected = sweep(model, tokens, [TaylorAbs()], batch_size=SAMPLES)
    model.lm_head.register_forward_hook(lambda module, arguments, output: seen.append(output.shape))
    found = sweep(model, tokens, [TaylorAbs()], batch_size=SAMPLES)
    assert max(shape[-2] for shape in seen) == rows
    assert sum(shape[-2] for shape in seen) == SAMPLES * (SEQ_LEN - 1)
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
    total = 3 + 3 + 3 * 2  # forward, backward, removals of 5 samples in 2 micro-batches
    assert steps == [(i, total) for i in range(1, total + 1)]


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
    with pytest.raises(NumericError, match=r"Layer 1: .* float16"):
        sweep(model, tokens)


def test_samples_too_short_for_a_loss_are_refused():
    model = tiny_model("llama")
    with pytest.raises(EngineError, match="at least 2"):
        sweep(model, np.zeros((4, 1), dtype=np.int64))
    with pytest.raises(EngineError, match="calibration set is empty"):
        sweep(model, np.zeros((0, 8), dtype=np.int64))


def test_a_setting_that_does_not_fit_says_what_was_needed_and_what_helps(tokens, monkeypatch, tmp_path):
    model = tiny_model("llama")
    monkeypatch.setattr("hgsp_core.engine.memory.free_bytes", lambda device: 2000)
    for memory, help in (("graphs", "memory: device"), ("device", "memory: cpu or disk"), ("cpu", "memory: disk")):
        with pytest.raises(EngineError, match=f"{memory}: .*GiB.*GiB are free.*Use {help}"):
            sweep(model, tokens, [TaylorAbs()], memory=memory)
    said = []
    sweep(model, tokens, [TaylorAbs()], say=said.append)
    assert len(said) == 1
    assert "on disk" in said[0]
    model.save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="streamed"):
        sweep_of(Streamed(tmp_path, layout_of(model), torch.float32), tokens, [TaylorAbs()], memory="graphs")


@pytest.mark.parametrize("memory", ["graphs", "device"])
@pytest.mark.parametrize(("dtype", "least"), [(torch.bfloat16, 0.99), (torch.float16, 0.999)])
def test_half_precision_ranks_units_as_fp32_does(dtype, least, memory, tokens):
    exact, half = (sweep(tiny_model("llama", dtype=d), tokens, memory=memory) for d in (torch.float32, dtype))
    for collector in (TaylorAbs(), TaylorCurvature(batch=2), WandaAbs(), WeightAbs()):
        for a, b in zip(exact[collector], half[collector], strict=True):
            for axis in AXES:
                assert np.corrcoef(a[axis], b[axis])[0, 1] > least or len(a[axis]) == 2
                np.testing.assert_allclose(a[axis], b[axis], rtol=0.25)


def test_fp16_gradients_that_would_underflow_are_scaled(tokens):
    def with_faint_gradients(dtype):
        model = tiny_model("llama", dtype=dtype)
        with torch.no_grad():
            model.lm_head.weight.mul_(2.0**-14)  # slopes of about 1e-6, in fp16 a handful of values apart
        return model

    exact, half = (
        sweep(with_faint_gradients(dtype), tokens, [TaylorAbs()])[TaylorAbs()]
        for dtype in (torch.float32, torch.float16)
    )
    for a, b in zip(exact, half, strict=True):
        np.testing.assert_allclose(a["mlp"], b["mlp"], rtol=0.1)


def test_many_micro_batches_in_bf16_are_added_up_in_fp32(tokens):
    model = tiny_model("llama", dtype=torch.bfloat16)
    many = np.tile(tokens, (16, 1))
    once = sweep(model, tokens, [TaylorAbs()], batch_size=1)
    equal(once, sweep(model, many, [TaylorAbs()], batch_size=1), [TaylorAbs()], rtol=1e-5)


def test_a_shard_that_is_cut_off_is_named(tokens, tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4000])
    with pytest.raises(CheckpointError, match=r"model.safetensors"):
        sweep_of(Streamed(tmp_path, layout_of(model), torch.float32), tokens, [TaylorAbs()])


def test_tokens_that_the_embedding_does_not_have_are_refused():
    model = tiny_model("llama")
    layout = layout_of(model)
    tokens = np.full((2, 4), model.config.vocab_size)
    with pytest.raises(EngineError, match="tokenizer and weights do not match"):
        run_sweep(Resident(model, layout), layout, tokens, [ResidualCosine()], 2)
