"""A pruned model equals the original with the removed units masked to zero."""

import pytest
import torch
from hgsp_llama import LLAMA
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.surgery import mask_tensors, prune_tensors
from hgsp_core.model.layout import read_layout


def tiny(groups=2, heads_per_group=4, head_dim=8, hidden=32, layers=3, bias=False, mlp_bias=False, tied=False, seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=hidden,
        intermediate_size=24,
        num_hidden_layers=layers,
        head_dim=head_dim,
        num_attention_heads=groups * heads_per_group,
        num_key_value_heads=groups,
        attention_bias=bias,
        mlp_bias=mlp_bias,
        tie_word_embeddings=tied,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # biases start at zero and norms at one: make every parameter matter
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


def layout_of(model):
    return read_layout(LLAMA, model.config.to_dict(), {n: tuple(t.shape) for n, t in model.state_dict().items()})


def plan_of(layout, drop):
    """`drop`: (layer, axis) -> units that go."""
    kept = {
        (b.layer, b.axis.name): [u for u in range(b.units) if u not in drop.get((b.layer, b.axis.name), ())]
        for b in layout.blocks()
    }
    return Plan.of(layout, kept, 0)


def masked_logits(model, layout, plan, ids):
    """The original model with masked weights; blocks without output bias then add exactly zero."""
    masked = dict(mask_tensors(model.state_dict().items(), layout, plan))
    return torch.func.functional_call(model, masked, (ids,), {"use_cache": False}, tie_weights=False).logits


def pruned_logits(model, layout, plan, ids):
    """Independent of our checkpoint code: the stock class of each layer's own size, run by hand."""
    tensors = dict(prune_tensors(model.state_dict().items(), layout, plan))
    old_layers = plan.kept_layers()
    x = torch.nn.functional.embedding(ids, tensors["model.embed_tokens.weight"])
    positions = torch.arange(ids.shape[1])[None]
    rotary = model.model.rotary_emb(x, positions)
    for new, old in enumerate(old_layers):
        layer = model.model.layers[old]
        own = {
            n.removeprefix(f"model.layers.{new}."): t
            for n, t in tensors.items()
            if n.startswith(f"model.layers.{new}.")
        }
        if "self_attn.q_proj.weight" in own:
            y = layer.input_layernorm.__class__(x.shape[-1], model.config.rms_norm_eps)
            y.weight = torch.nn.Parameter(own["input_layernorm.weight"])
            parts = {n.removeprefix("self_attn."): t for n, t in own.items() if n.startswith("self_attn.")}
            x = (
                x
                + torch.func.functional_call(
                    layer.self_attn, parts, (y(x),), {"position_embeddings": rotary, "attention_mask": None}
                )[0]
            )
        if "mlp.up_proj.weight" in own:
            y = layer.post_attention_layernorm.__class__(x.shape[-1], model.config.rms_norm_eps)
            y.weight = torch.nn.Parameter(own["post_attention_layernorm.weight"])
            parts = {n.removeprefix("mlp."): t for n, t in own.items() if n.startswith("mlp.")}
            x = x + torch.func.functional_call(layer.mlp, parts, (y(x),))
    norm = torch.func.functional_call(model.model.norm, {"weight": tensors["model.norm.weight"]}, (x,))
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    return norm @ head.T


SHAPES = [
    dict(groups=4, heads_per_group=1),
    dict(groups=2, heads_per_group=4),
    dict(groups=2, heads_per_group=7, hidden=28, head_dim=4),
    dict(groups=1, heads_per_group=4),
    dict(groups=2, heads_per_group=2, head_dim=16, hidden=32),
    dict(bias=True, mlp_bias=True),
    dict(tied=True),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_pruned_equals_masked(shape):
    model = tiny(**shape)
    layout = layout_of(model)
    groups = model.config.num_key_value_heads
    drop = {(0, "mlp"): range(0, 24, 3), (1, "mlp"): (5,), (2, "mlp"): range(20)}
    if groups > 1:
        drop |= {(0, "attention"): (0,), (1, "attention"): (groups - 1,)}
    plan = plan_of(layout, drop)
    ids = torch.randint(50, (2, 12))
    expected = masked_logits(model, layout, plan, ids)
    assert (expected - model(ids, use_cache=False).logits).abs().max() > 1e-2  # the cut is not a no-op
    # heads per group do not change, so the modules' own attributes hold for the smaller weights
    torch.testing.assert_close(pruned_logits(model, layout, plan, ids), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "gone", [(0, "attention"), (1, "attention"), (2, "attention"), (1, "mlp"), "layer 1", "layers 0 2"]
)
@torch.no_grad()
def test_removed_blocks_and_layers_add_nothing(gone, bias):
    model = tiny(bias=bias, mlp_bias=bias)
    layout = layout_of(model)
    every = {"attention": range(2), "mlp": range(24)}
    if isinstance(gone, tuple):
        drop = {gone: every[gone[1]]}
    else:
        drop = {(int(i), axis): units for i in gone.split()[1:] for axis, units in every.items()}
    plan = plan_of(layout, drop)
    ids = torch.randint(50, (2, 12))
    torch.testing.assert_close(
        pruned_logits(model, layout, plan, ids), masked_logits(model, layout, plan, ids), atol=2e-5, rtol=1e-5
    )


def test_keeping_everything_is_the_identity():
    model = tiny(bias=True)
    layout = layout_of(model)
    pruned = dict(prune_tensors(model.state_dict().items(), layout, Plan.keep_all(layout)))
    assert pruned.keys() == model.state_dict().keys()
    assert all(torch.equal(pruned[name], tensor) for name, tensor in model.state_dict().items())


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_parameters_of_the_cut_tensors_are_the_plans_count(data):
    shape = data.draw(st.sampled_from(SHAPES))
    model = tiny(**shape)
    layout = layout_of(model)
    drop = {
        (b.layer, b.axis.name): data.draw(st.sets(st.integers(0, b.units - 1), max_size=b.units))
        for b in layout.blocks()
    }
    plan = plan_of(layout, drop)
    tensors = dict(prune_tensors(model.state_dict().items(), layout, plan))
    assert sum(t.numel() for t in tensors.values()) == plan.parameters_after(layout)
    assert layout.parameters == sum(p.numel() for p in model.parameters())
