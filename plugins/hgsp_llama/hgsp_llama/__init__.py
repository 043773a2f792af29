"""The Llama family, as data. A new family is a copy of this file with other names."""

from hgsp_core import Architecture, Axis, Slice, hookimpl

LLAMA = Architecture(
    model_type="llama",
    summary="Llama 1-3, TinyLlama, SmolLM and others of model_type 'llama'",
    layers="model.layers",
    embed="model.embed_tokens",
    norm="model.norm",
    head="lm_head",
    axes=(
        Axis(
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
        ),
        Axis(
            name="mlp",
            units="intermediate_size",
            block="mlp",
            fixed=("post_attention_layernorm",),
            slices=(Slice("mlp.gate_proj", 0), Slice("mlp.up_proj", 0), Slice("mlp.down_proj", 1)),
        ),
    ),
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [LLAMA]
