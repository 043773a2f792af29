"""The stock class that can hold a uniform model: its own family's, or a related one's.

Measured with transformers 5.23 on models with fewer heads of the old size, so that heads * head_dim != hidden_size:
    llama   refused unless hidden_size is a multiple of num_attention_heads. Mistral without a sliding window is the
            same network and takes any number of heads, but has no biases.
    qwen2   accepted with an explicit `head_dim`. vLLM, SGLang, MLX and older transformers ignore that key for Qwen2
            and fail, but honour it for Llama, which with `attention_bias` is the same network once o_proj has a bias
            of zeros.
    mistral, qwen3   accepted, and `head_dim` is honoured everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from hgsp_core.model.layout import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class Relative(NamedTuple):
    """Another family with the same network: config values that make it so, and the linears that need a zero bias."""

    model_type: str
    values: Mapping[str, Any]
    zero_biases: tuple[str, ...] = ()


_RELATIVES = {
    "llama": Relative("mistral", {"sliding_window": None}),
    "qwen2": Relative("llama", {"attention_bias": True, "mlp_bias": False}, zero_biases=("self_attn.o_proj",)),
}
_IGNORE_HEAD_DIM = ("qwen2",)


def original_config(layout: Layout) -> PreTrainedConfig:
    """The original config as its family's class reads it: with its defaults and derived values."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[layout.architecture.model_type](**deepcopy(dict(layout.config)))


def housed_config(layout: Layout, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The config of a uniform model as given, or of the same network in a related family; None: no stock class fits."""
    own = config if _accepted(config) else None
    derived = config["hidden_size"] == config["num_attention_heads"] * config["head_dim"]
    if own and (derived or config["model_type"] not in _IGNORE_HEAD_DIM):
        return own
    return _rehoused(layout, config) or own


def housed_tensors(
    tensors: Iterable[tuple[str, torch.Tensor]], layout: Layout, config: Mapping[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a pruned model, and after them the zero biases that its new family needs.

    `config` is what `pruned_config` returned; a model that stays in its family passes through unchanged.
    """
    dtype = torch.float32
    for name, tensor in tensors:
        dtype = tensor.dtype
        yield name, tensor
    relative = _RELATIVES.get(layout.architecture.model_type)
    if relative and relative.model_type == config["model_type"]:
        for index in range(config["num_hidden_layers"]):
            for module in relative.zero_biases:
                bias = torch.zeros(config["hidden_size"], dtype=dtype)
                yield f"{layout.architecture.layers}.{index}.{module}.bias", bias


def _accepted(config: Mapping[str, Any]) -> bool:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    try:
        CONFIG_MAPPING[config["model_type"]](**deepcopy(dict(config)))
    except (StrictDataclassError, ValueError):
        return False
    return True


def _rehoused(layout: Layout, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """In the related family: without the keys that only the old one has, its defaults spelled out."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

    relative = _RELATIVES.get(config["model_type"])
    if relative is None or not _same_network(layout, config):
        return None
    old, new = CONFIG_MAPPING[config["model_type"]], CONFIG_MAPPING[relative.model_type]
    old_keys, new_keys, common = ({field.name for field in fields(c)} for c in (old, new, PreTrainedConfig))
    original = original_config(layout)
    stock: type[PreTrainedModel] = MODEL_FOR_CAUSAL_LM_MAPPING[new]  # type: ignore[assignment]  # declared as a tuple
    rehoused = {
        **{key: getattr(original, key) for key in sorted(old_keys & new_keys - common)},
        **{key: value for key, value in config.items() if key not in old_keys - new_keys},
        **relative.values,
        "model_type": relative.model_type,
        "architectures": [stock.__name__],
    }
    return rehoused if _accepted(rehoused) else None


def _same_network(layout: Layout, config: Mapping[str, Any]) -> bool:
    """Whether the relative computes the same: Mistral has no biases, Llama no sliding window."""
    if config["model_type"] == "llama":
        return not any(s.has_bias for block in layout.blocks() for s in block.slices)
    return "sliding_attention" not in config["layer_types"]
