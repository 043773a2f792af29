"""The stock class that can hold a uniform model: its own family's, or that of a related one with the same network.

A model with fewer heads of the old size has heads * head_dim != hidden_size. Some classes refuse that, and some programs
ignore `head_dim` for some families. Which relative helps is the architecture's data (`Relative`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from hgsp_core.model.architecture import Relative
from hgsp_core.model.layout import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def original_config(layout: Layout) -> PreTrainedConfig:
    """The original config as its family's class reads it: with its defaults and derived values."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[layout.architecture.model_type](**deepcopy(dict(layout.config)))


def housed_config(layout: Layout, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The config of a uniform model as given, or of the same network in a related family; None: no stock class fits."""
    own, relative = config if _accepted(config) else None, layout.architecture.relative
    derived = config["hidden_size"] == config["num_attention_heads"] * config["head_dim"]
    if relative is None or (own and (derived or not relative.preferred)):
        return own
    return _rehoused(layout, config, relative) or own


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
    relative = layout.architecture.relative
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


def _rehoused(layout: Layout, config: Mapping[str, Any], relative: Relative) -> dict[str, Any] | None:
    """In the related family: without the keys that only the old one has, its defaults spelled out."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

    original = original_config(layout)
    windows = "sliding_attention" in (getattr(original, "layer_types", None) or ())
    biases = any(s.has_bias for block in layout.blocks() for s in block.slices)
    if (windows and not relative.windows) or (biases and not relative.biases):
        return None
    old, new = CONFIG_MAPPING[config["model_type"]], CONFIG_MAPPING[relative.model_type]
    old_keys, new_keys, common = ({field.name for field in fields(c)} for c in (old, new, PreTrainedConfig))
    stock: type[PreTrainedModel] = MODEL_FOR_CAUSAL_LM_MAPPING[new]  # type: ignore[assignment]  # declared as a tuple
    rehoused = {
        **{key: getattr(original, key) for key in sorted(old_keys & new_keys - common)},
        **{key: value for key, value in config.items() if key not in old_keys - new_keys},
        **relative.values,
        "model_type": relative.model_type,
        "architectures": [stock.__name__],
    }
    return rehoused if _accepted(rehoused) else None
