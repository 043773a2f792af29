"""The Llama family, as data. `hgsp plugins new architecture NAME` writes a family out in full."""

from hgsp_core import Architecture, Relative, hookimpl, pre_norm_decoder

LLAMA = pre_norm_decoder(
    "llama",
    "Llama 1-3, TinyLlama, SmolLM and others of model_type 'llama'",
    gguf="llama",
    # its class refuses a hidden size that is no multiple of the heads; Mistral's does not, but has no biases
    relative=Relative("mistral", {"sliding_window": None}, biases=False),
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [LLAMA]
