"""The Qwen families, as data."""

from dataclasses import replace

from hgsp_core import (
    GATED_EXPERTS,
    GATED_MLP,
    GROUPED_ATTENTION,
    Architecture,
    Relative,
    hookimpl,
    pre_norm_decoder,
)

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
#: experts in the layers that `mlp_only_layers` does not list
EXPERTS = replace(GATED_EXPERTS, optional=True, absent="mlp_only_layers", with_absent={"decoder_sparse_step": 1})
EXPERTS_IN_FILES = {
    "mlp.experts.gate_up_proj": ("mlp.experts.{expert}.gate_proj.weight", "mlp.experts.{expert}.up_proj.weight"),
    "mlp.experts.down_proj": ("mlp.experts.{expert}.down_proj.weight",),
}
SHARED = ("shared_expert.gate_proj", "shared_expert.up_proj", "shared_expert.down_proj", "shared_expert_gate")
QWEN3_MOE = replace(
    QWEN3,
    model_type="qwen3_moe",
    summary="Qwen3-MoE, dense layers among those with experts or not",
    gguf="",
    axes=(QWEN3.axes[0], replace(GATED_MLP, optional=True), EXPERTS),
    renamed={"num_experts": "num_local_experts"},
    stored=EXPERTS_IN_FILES,
)
QWEN2_MOE = replace(
    QWEN3_MOE,
    model_type="qwen2_moe",
    summary="Qwen1.5-MoE and Qwen2-MoE, with shared experts",
    axes=(
        GROUPED_ATTENTION,
        replace(GATED_MLP, optional=True),
        replace(EXPERTS, units="num_experts", fixed=(*EXPERTS.fixed, *(f"mlp.{name}" for name in SHARED))),
    ),
    renamed={},
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [QWEN2, QWEN3, QWEN2_MOE, QWEN3_MOE]
