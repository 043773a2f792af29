"""Phi-3 and Phi-4, as data: q, k and v are one linear, gate and up another."""

from dataclasses import replace

from hgsp_core import GATED_MLP, GROUPED_ATTENTION, Architecture, Slice, hookimpl, pre_norm_decoder

QKV, GATE_UP = "self_attn.qkv_proj", "mlp.gate_up_proj"

PHI3 = pre_norm_decoder(
    "phi3",
    "Phi-3, Phi-3.5 and Phi-4 (text), with fused q, k, v and fused gate and up",
    attention=replace(
        GROUPED_ATTENTION,
        cache=(f"{QKV}[1]", f"{QKV}[2]"),
        slices=(
            Slice(QKV, 0, rows="num_attention_heads"),
            Slice(QKV, 0, rows="num_key_value_heads"),
            Slice(QKV, 0, rows="num_key_value_heads"),
            Slice("self_attn.o_proj", 1),
        ),
    ),
    mlp=replace(GATED_MLP, slices=(Slice(GATE_UP, 0), Slice(GATE_UP, 0), Slice("mlp.down_proj", 1))),
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [PHI3]
