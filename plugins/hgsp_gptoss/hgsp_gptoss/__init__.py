"""The gpt-oss family, as data."""

from dataclasses import replace

from hgsp_core import GATED_EXPERTS, GROUPED_ATTENTION, Architecture, Slice, hookimpl, pre_norm_decoder

#: each query head has a sink, a logit that takes part in the softmax and has no value
ATTENTION = replace(GROUPED_ATTENTION, slices=(*GROUPED_ATTENTION.slices, Slice("self_attn.sinks", 0, bare=True)))
EXPERTS = replace(
    GATED_EXPERTS,
    router="mlp.router",
    pair=True,
    slices=(
        Slice("mlp.router", 0),
        *(
            Slice(f"mlp.experts.{name}", 0, bare=True)
            for name in ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
        ),
    ),
)
GPT_OSS = pre_norm_decoder(
    "gpt_oss", "gpt-oss 20B and 120B with weights in bfloat16, experts in every layer", attention=ATTENTION, mlp=EXPERTS
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [GPT_OSS]
