"""Transformers objects from a checkpoint directory, with faults that transformers ignores as errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.read import read_config, read_json, tensor_shapes
from hgsp_core.checkpoint.register import register
from hgsp_core.checkpoint.trust import require_stock_tokenizer
from hgsp_core.errors import HgspError, shown
from hgsp_core.files.forms import TokenizerConfig
from hgsp_core.model.layout import Shape


def load_model(
    directory: Path | str, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model in eval mode and the content of its config.json.

    Args:
        dtype: None = as stored.

    Raises:
        CheckpointError: whatever `read` finds, a model that transformers cannot build, or weights it does not find
            (transformers itself would fill those with random numbers and only warn).
    """
    config, stored, own = read_config(directory), tensor_shapes(directory), load_config(directory)
    model: PreTrainedModel
    info: dict[str, Any]
    with _told_by_transformers(directory):
        model, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]  # a pair, with output_loading_info
            directory,
            config=own,
            dtype="auto" if dtype is None else dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named below
        )
    if not stored.keys() & model.state_dict().keys():
        raise CheckpointError.no_prefix(directory, model.base_model_prefix)
    for name, shape, expected in sorted(info["mismatched_keys"]):
        raise CheckpointError.other_shape(directory, name, shape, expected)
    if info["missing_keys"]:
        raise CheckpointError.missing_keys(directory, sorted(info["missing_keys"]))
    parameters = dict(model.named_parameters())  # tied ones once
    tied = model._tied_weights_keys if getattr(model.config.get_text_config(), "tie_word_embeddings", False) else None
    for head, embed in dict(tied or {}).items():
        if head in parameters and embed in parameters:
            raise CheckpointError.other_head(directory, head, embed)
    return model.to(device).eval(), config  # type: ignore[arg-type]  # its decorator hides `self`


def load(directory: Path | str, device: str | torch.device = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model, pruned or not, and its tokenizer. Raises CheckpointError."""
    return load_model(directory, device=device)[0], load_tokenizer(directory)


def load_config(directory: Path | str) -> PreTrainedConfig:
    """config.json as its class reads it: with defaults and derived values. Raises CheckpointError.

    generation_config.json is read too, so that no file is passed on that transformers cannot read.
    """
    read_config(directory)
    settings = Path(directory) / "generation_config.json"
    generation = read_json(settings) if settings.is_file() else {}
    register()
    with _told_by_transformers(settings):
        GenerationConfig.from_dict(generation)
    with _told_by_transformers(directory):
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        if getattr(config, "head_dim", 0) is None:  # a null that not every class takes for its default
            config.head_dim = config.hidden_size // config.num_attention_heads
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if slides and not getattr(config, "sliding_window", None):  # transformers finds this only when the model is run
        raise CheckpointError.no_window(directory)
    return config


def skeleton(directory: Path | str, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model that config.json asks for, on the meta device: no memory is taken for its weights. Raises CheckpointError."""
    config = load_config(directory)
    with _told_by_transformers(directory), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def require_agreement(directory: Path | str, model: PreTrainedModel, stored: Mapping[str, Shape]) -> None:
    """The model that config.json asks for has the tensors that are stored. Raises CheckpointError."""
    if not stored.keys() & model.state_dict().keys():
        raise CheckpointError.no_prefix(directory, model.base_model_prefix)
    own = parameter_shapes(model)
    if missing := sorted(own.keys() - stored.keys()):
        raise CheckpointError.missing_keys(directory, missing)
    if left := sorted(stored.keys() - model.state_dict().keys()):
        raise CheckpointError.no_place(directory, left)
    for name, shape in own.items():
        if shape != stored[name]:
            raise CheckpointError.other_shape(directory, name, stored[name], shape)


def parameter_shapes(model: PreTrainedModel) -> dict[str, Shape]:
    """Parameter name -> shape, tied ones once."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


@contextmanager
def _told_by_transformers(directory: Path | str) -> Iterator[None]:
    """Turns what transformers raises about a model into CheckpointError, except when memory runs out."""
    try:
        yield
    except HgspError:
        raise
    except Exception as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
            raise
        raise CheckpointError.not_loaded(directory, error) from error


def load_tokenizer(directory: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer: exactly `tokenizer.json` where there is one, with its special tokens and chat template.

    AutoTokenizer picks a class by model type, and some of those (Qwen2's) rebuild the tokenizer by rules of their own,
    which changes the token ids of a model that was trained with another one.

    Raises:
        CheckpointError: no directory, no tokenizer in it, or one that needs code of its own.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError.no_directory(directory)
    settings = directory / "tokenizer_config.json"
    if settings.is_file():
        read_json(settings, TokenizerConfig)
    try:
        if (directory / "tokenizer.json").is_file():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, trust_remote_code=False)
        else:
            require_stock_tokenizer(directory)
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        if not isinstance(tokenizer.model_max_length, (int, float)):
            raise TypeError(f"model_max_length is {shown(tokenizer.model_max_length)}, not a number.")
        return tokenizer
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise CheckpointError.no_tokenizer(directory, error) from error
