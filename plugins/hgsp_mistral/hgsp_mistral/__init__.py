"""The Mistral family, as data."""

from dataclasses import replace

from hgsp_core import GATED_EXPERTS, Architecture, hookimpl, pre_norm_decoder

MISTRAL = pre_norm_decoder(
    "mistral", "Mistral 7B and others of model_type 'mistral', sliding window on or off", gguf="llama"
)
MIXTRAL = replace(
    pre_norm_decoder("mixtral", "Mixtral 8x7B and 8x22B, experts in every layer", mlp=GATED_EXPERTS),
    stored={
        "mlp.gate.weight": ("block_sparse_moe.gate.weight",),
        "mlp.experts.gate_up_proj": (
            "block_sparse_moe.experts.{expert}.w1.weight",
            "block_sparse_moe.experts.{expert}.w3.weight",
        ),
        "mlp.experts.down_proj": ("block_sparse_moe.experts.{expert}.w2.weight",),
    },
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [MISTRAL, MIXTRAL]
