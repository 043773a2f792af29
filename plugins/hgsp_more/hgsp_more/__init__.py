"""Further families as data: OLMo 2 and 3, Granite 3, SmolLM3, GLM-4."""

from dataclasses import replace

from hgsp_core import GATED_MLP, GROUPED_ATTENTION, Architecture, Slice, hookimpl, pre_norm_decoder

#: norms follow the blocks, none precedes them; those of q and k are over all heads
OLMO_ATTENTION = replace(
    GROUPED_ATTENTION,
    fixed=("post_attention_layernorm",),
    norms=("self_attn.q_norm", "self_attn.k_norm"),
    after="post_attention_layernorm",
)
OLMO_MLP = replace(GATED_MLP, fixed=("post_feedforward_layernorm",), after="post_feedforward_layernorm")

OLMO2 = replace(pre_norm_decoder("olmo2", "OLMo 2, with norms after each block"), axes=(OLMO_ATTENTION, OLMO_MLP))
OLMO3 = replace(OLMO2, model_type="olmo3", summary="OLMo 3, with norms after each block and sliding windows")

#: what a block returns is multiplied by a number of the config
GRANITE = replace(
    pre_norm_decoder("granite", "Granite 3, with multipliers of embeddings, attention, residuals and logits"),
    axes=tuple(replace(axis, gain="residual_multiplier") for axis in (GROUPED_ATTENTION, GATED_MLP)),
)
SMOLLM3 = pre_norm_decoder("smollm3", "SmolLM3, with layers that have no rotary positions")

#: norms before and after each block; gate and up are one linear
GLM4 = replace(
    pre_norm_decoder("glm4", "GLM-4, with norms before and after each block and fused gate and up"),
    axes=(
        replace(
            GROUPED_ATTENTION,
            fixed=("input_layernorm", "post_self_attn_layernorm"),
            after="post_self_attn_layernorm",
        ),
        replace(
            GATED_MLP,
            fixed=("post_attention_layernorm", "post_mlp_layernorm"),
            after="post_mlp_layernorm",
            slices=(
                Slice("mlp.gate_up_proj", 0, rows="intermediate_size"),
                Slice("mlp.gate_up_proj", 0, rows="intermediate_size"),
                Slice("mlp.down_proj", 1),
            ),
        ),
    ),
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [OLMO2, OLMO3, GRANITE, SMOLLM3, GLM4]
