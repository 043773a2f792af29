"""The dense Qwen families, as data. Biases need no mention: where a linear has one, it follows the rows."""

from dataclasses import replace

from hgsp_core import Architecture, Axis, Slice, hookimpl

ATTENTION = Axis(
    name="attention",
    units="num_key_value_heads",
    scales=("num_attention_heads",),
    block="self_attn",
    fixed=("input_layernorm",),
    cache=("self_attn.k_proj", "self_attn.v_proj"),
    slices=(
        Slice("self_attn.q_proj", 0),
        Slice("self_attn.k_proj", 0),
        Slice("self_attn.v_proj", 0),
        Slice("self_attn.o_proj", 1),
    ),
)
MLP = Axis(
    name="mlp",
    units="intermediate_size",
    block="mlp",
    fixed=("post_attention_layernorm",),
    slices=(Slice("mlp.gate_proj", 0), Slice("mlp.up_proj", 0), Slice("mlp.down_proj", 1)),
)
QWEN2 = Architecture(
    model_type="qwen2",
    summary="Qwen2 and Qwen2.5, with biases of q, k and v",
    layers="model.layers",
    embed="model.embed_tokens",
    norm="model.norm",
    head="lm_head",
    axes=(ATTENTION, MLP),
)
#: one q norm and one k norm serve all heads of a layer, so they are no unit's own
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
QWEN3 = replace(
    QWEN2,
    model_type="qwen3",
    summary="Qwen3, with norms of q and k and a head size of its own",
    axes=(replace(ATTENTION, fixed=ATTENTION.fixed + HEAD_NORMS), MLP),
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [QWEN2, QWEN3]
