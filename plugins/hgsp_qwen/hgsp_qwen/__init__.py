"""The dense Qwen families, as data."""

from dataclasses import replace

from hgsp_core import GROUPED_ATTENTION, Architecture, hookimpl, pre_norm_decoder

#: one q norm and one k norm serve all heads of a layer, so they are no unit's own
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")

QWEN2 = pre_norm_decoder("qwen2", "Qwen2 and Qwen2.5, with biases of q, k and v")
QWEN3 = pre_norm_decoder(
    "qwen3",
    "Qwen3, with norms of q and k and a head size of its own",
    attention=replace(GROUPED_ATTENTION, fixed=GROUPED_ATTENTION.fixed + HEAD_NORMS),
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [QWEN2, QWEN3]
