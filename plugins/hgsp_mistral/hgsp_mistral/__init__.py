"""The Mistral family, as data: Llama's names, with or without a sliding window."""

from hgsp_core import Architecture, Axis, Slice, hookimpl

MISTRAL = Architecture(
    model_type="mistral",
    summary="Mistral 7B and others of model_type 'mistral', sliding window on or off",
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
    return [MISTRAL]
