"""Transformers objects from a checkpoint directory, with the faults that transformers passes over made errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from hgsp_core.checkpoint.read import read_config, tensor_files
from hgsp_core.checkpoint.register import register
from hgsp_core.checkpoint.trust import require_stock_tokenizer
from hgsp_core.errors import CheckpointError


def load_model(
    directory: Path | str,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model in eval mode and the content of its config.json.

    Args:
        dtype: None = as stored.
    Raises:
        CheckpointError: whatever `read` finds, a model that transformers cannot build, or weights it does not find
            (transformers itself would fill those with random numbers and only warn).
    """
    config = read_config(directory)
    tensor_files(directory)
    register()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype="auto" if dtype is None else dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named below
        )
    except (ImportError, KeyError, OSError, RuntimeError, ValueError, StrictDataclassError) as error:
        raise CheckpointError.not_loaded(directory, error) from error
    for name, stored, expected in sorted(info["mismatched_keys"]):
        raise CheckpointError.other_shape(directory, name, stored, expected)
    if info["missing_keys"]:
        raise CheckpointError.missing_keys(directory, sorted(info["missing_keys"]))
    return model.to(device).eval(), config


def load_config(directory: Path | str) -> PreTrainedConfig:
    """config.json as its class reads it: with defaults and derived values. Raises CheckpointError."""
    read_config(directory)
    register()
    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (KeyError, OSError, ValueError, StrictDataclassError) as error:
        raise CheckpointError.not_loaded(directory, error) from error


def expected_shapes(directory: Path | str) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of what config.json asks for, tied ones once; the model is built without memory for its weights.

    Raises:
        CheckpointError: transformers cannot build a model from it.
    """
    config = load_config(directory)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ImportError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError.not_loaded(directory, error) from error
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def load_tokenizer(directory: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer: `tokenizer.json` to the letter where there is one, with its special tokens and chat template.

    AutoTokenizer picks a class by model type, and some of those (Qwen2's) rebuild the tokenizer by rules of their own,
    which changes the token ids of a model that was trained with another one.

    Raises:
        CheckpointError: no directory, no tokenizer in it, or one that needs code of its own.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError.no_directory(directory)
    try:
        if (directory / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(directory, trust_remote_code=False)
        require_stock_tokenizer(directory)
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise CheckpointError.no_tokenizer(directory, error) from error
