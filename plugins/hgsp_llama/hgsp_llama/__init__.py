"""The Llama family, as data. `hgsp plugins new architecture NAME` writes a family out in full."""

from hgsp_core import Architecture, hookimpl, pre_norm_decoder

LLAMA = pre_norm_decoder("llama", "Llama 1-3, TinyLlama, SmolLM and others of model_type 'llama'")


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [LLAMA]
