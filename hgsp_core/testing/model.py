"""Tiny random models: of an architecture's own family, and a built-in one for methods, so that the kit needs no plugin."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from hgsp_core import (
    GATED_EXPERTS,
    GATED_MLP,
    GROUPED_ATTENTION,
    Architecture,
    Layout,
    pre_norm_decoder,
    read_layout,
)

LAYERS, VOCABULARY = 4, 61
#: groups and channels of the random models: GQA with two query heads to a group
GROUPS, CHANNELS, HEAD_DIM = 3, 24, 8
#: experts, and how many of them a token goes to
EXPERTS, CHOSEN = 6, 2

#: of norms over all units: what they add to a mean square would count less where units are gone
EPSILON = 1e-12

#: config keys of the channels of experts
_EXPERT_SIZES = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")

#: what methods are tried on; they see its layout and statistics, and must not care which family it is
SAMPLE = pre_norm_decoder("llama")
SAMPLE_EXPERTS = replace(
    SAMPLE,
    model_type="qwen2_moe",
    axes=(
        GROUPED_ATTENTION,
        replace(GATED_MLP, optional=True),
        replace(
            GATED_EXPERTS,
            units="num_experts",
            optional=True,
            fixed=(
                *GATED_EXPERTS.fixed,
                "mlp.shared_expert_gate",
                *(f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")),
            ),
        ),
    ),
)


def random_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A model of the config whose every parameter matters: transformers starts biases at 0 and norms at 1."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.mul_(4)  # far enough from the linear regime for attention and gates to matter
    return model


def tiny_config(architecture: Architecture, biases: bool = False) -> PreTrainedConfig:
    """The family's own config with a few layers, heads and channels; `biases` switches on all that it can have.

    Raises:
        KeyError: transformers does not know the model type.
    """
    config = CONFIG_MAPPING[architecture.model_type]
    heads = 2 * GROUPS
    values: dict[str, Any] = dict(
        vocab_size=VOCABULARY,
        hidden_size=heads * HEAD_DIM,
        num_hidden_layers=LAYERS,
        max_position_embeddings=64,
        head_dim=HEAD_DIM,
        tie_word_embeddings=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    for axis in architecture.axes:
        values[axis.units] = GROUPS if axis.cache else EXPERTS if axis.router else CHANNELS
        if axis.router:
            values |= {axis.chosen: CHOSEN, **{key: CHANNELS for key in vars(config()) if key in _EXPERT_SIZES}}
        values |= dict.fromkeys(axis.scales, heads if axis.cache else CHANNELS)
    if any(axis.norms for axis in architecture.axes):
        values["rms_norm_eps"] = EPSILON
    if biases:
        values |= {key: True for key, value in vars(config()).items() if key.endswith("_bias") and value is False}
    return config(**values)


def layout_of(architecture: Architecture, model: PreTrainedModel) -> Layout:
    return read_layout(architecture, model.config.to_dict(), {n: tuple(t.shape) for n, t in model.state_dict().items()})


@cache
def sample_model(experts: bool = False) -> PreTrainedModel:
    """The model that methods are tried on: GQA, with a bias on every linear, untied; or one with experts in all layers but one."""
    if not experts:
        return random_model(tiny_config(SAMPLE, biases=True))
    config = tiny_config(SAMPLE_EXPERTS)
    config.mlp_only_layers = [1]
    return random_model(config)


@cache
def sample_layout(experts: bool = False) -> Layout:
    return layout_of(SAMPLE_EXPERTS if experts else SAMPLE, sample_model(experts))
