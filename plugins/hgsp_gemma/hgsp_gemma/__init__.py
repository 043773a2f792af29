"""Gemma 2 and the text models of Gemma 3, as data: a norm stands between each block and the residual stream."""

from dataclasses import replace

from hgsp_core import GATED_MLP, GROUPED_ATTENTION, Architecture, hookimpl, pre_norm_decoder

ATTENTION = replace(
    GROUPED_ATTENTION,
    fixed=("input_layernorm", "post_attention_layernorm"),
    after="post_attention_layernorm",
)
MLP = replace(
    GATED_MLP,
    fixed=("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    after="post_feedforward_layernorm",
)


GEMMA2 = pre_norm_decoder(
    "gemma2",
    "Gemma 2, with soft-capped logits and sliding windows in every other layer",
    attention=ATTENTION,
    mlp=MLP,
)
GEMMA3 = pre_norm_decoder(
    "gemma3_text",
    "Text models of Gemma 3, with norms of q and k and windows in five of six layers",
    attention=replace(ATTENTION, fixed=(*ATTENTION.fixed, "self_attn.q_norm", "self_attn.k_norm")),
    mlp=MLP,
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [GEMMA2, GEMMA3]
