"""Gemma 2 and the text models of Gemma 3, as data: a norm stands between each block and the residual stream."""

from dataclasses import replace

from hgsp_core import GATED_MLP, GROUPED_ATTENTION, Architecture, Axis, hookimpl, pre_norm_decoder

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


def gemma(model_type: str, summary: str, attention: Axis) -> Architecture:
    """A Gemma with this attention."""
    return replace(pre_norm_decoder(model_type, summary), axes=(attention, MLP))


GEMMA2 = gemma("gemma2", "Gemma 2, with soft-capped logits and sliding windows in every other layer", ATTENTION)
GEMMA3 = gemma(
    "gemma3_text",
    "Text models of Gemma 3, with norms of q and k and windows in five of six layers",
    replace(ATTENTION, fixed=(*ATTENTION.fixed, "self_attn.q_norm", "self_attn.k_norm")),
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [GEMMA2, GEMMA3]
