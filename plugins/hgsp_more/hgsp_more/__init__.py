"""Further families as data: OLMo 2 and 3, Granite 3, SmolLM3, GLM-4."""

from dataclasses import replace

from hgsp_core import GATED_MLP, GROUPED_ATTENTION, Architecture, Slice, hookimpl, pre_norm_decoder

OLMO2 = pre_norm_decoder(
    "olmo2",
    "OLMo 2, with norms after each block and norms over all heads",
    attention=replace(
        GROUPED_ATTENTION,
        fixed=("post_attention_layernorm",),
        norms=("self_attn.q_norm", "self_attn.k_norm"),
        after="post_attention_layernorm",
    ),
    mlp=replace(GATED_MLP, fixed=("post_feedforward_layernorm",), after="post_feedforward_layernorm"),
)
OLMO3 = replace(OLMO2, model_type="olmo3", summary="OLMo 3, as OLMo 2 with sliding windows")
GRANITE = pre_norm_decoder(
    "granite",
    "Granite 3, with multipliers of embeddings, attention, residuals and logits",
    attention=replace(GROUPED_ATTENTION, gain="residual_multiplier"),
    mlp=replace(GATED_MLP, gain="residual_multiplier"),
)
SMOLLM3 = pre_norm_decoder("smollm3", "SmolLM3, with layers that have no rotary positions")
GLM4 = pre_norm_decoder(
    "glm4",
    "GLM-4, with norms before and after each block and fused gate and up",
    attention=replace(
        GROUPED_ATTENTION,
        fixed=("input_layernorm", "post_self_attn_layernorm"),
        after="post_self_attn_layernorm",
    ),
    mlp=replace(
        GATED_MLP,
        fixed=("post_attention_layernorm", "post_mlp_layernorm"),
        after="post_mlp_layernorm",
        slices=(Slice("mlp.gate_up_proj", 0), Slice("mlp.gate_up_proj", 0), Slice("mlp.down_proj", 1)),
    ),
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [OLMO2, OLMO3, GRANITE, SMOLLM3, GLM4]
