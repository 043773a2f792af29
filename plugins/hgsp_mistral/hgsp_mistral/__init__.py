"""The Mistral family, as data."""

from hgsp_core import Architecture, hookimpl, pre_norm_decoder

MISTRAL = pre_norm_decoder(
    "mistral", "Mistral 7B and others of model_type 'mistral', sliding window on or off", gguf="llama"
)


@hookimpl
def hgsp_architectures() -> list[Architecture]:
    return [MISTRAL]
