"""The dense Qwen families, as data."""

from dataclasses import replace

from hgsp_core import GROUPED_ATTENTION, Architecture, Relative, hookimpl, pre_norm_decoder

#: one q norm and one k norm serve all heads of a layer, so they are no unit's own
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")

QWEN2 = pre_norm_decoder(
    "qwen2",
    "Qwen2 and Qwen2.5, with biases of q, k and v",
    gguf="qwen2",
    # vLLM, SGLang, MLX and older transformers ignore `head_dim` for Qwen2, but not for Llama
    relative=Relative(
        "llama",
        {"attention_bias": True, "mlp_bias": False},
        zero_biases=("self_attn.o_proj",),
        windows=False,
        preferred=True,
    ),
)
QWEN3 = pre_norm_decoder(
    "qwen3",
    "Qwen3, with norms of q and k and a head size of its own",
    gguf="qwen3",
    attention=replace(GROUPED_ATTENTION, fixed=GROUPED_ATTENTION.fixed + HEAD_NORMS),
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [QWEN2, QWEN3]
