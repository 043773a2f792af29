"""A checkpoint directory from a stream of tensors, never more than one shard of them in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from hgsp_core.checkpoint import MODEL_TYPE
from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.read import INDEX, LICENCE_FILES, TOKENIZER_FILES, WEIGHTS, stored_dtype, tensor_files
from hgsp_core.checkpoint.room import given_up, require_room
from hgsp_core.checkpoint.trust import AUTO_MAP, MODELING_FILE, RUNNABLE, own_file
from hgsp_core.files.text import read_object

#: files that a pruned model keeps: tokenizer, generation settings, licence
_KEPT_FILES = (*TOKENIZER_FILES, "chat_template*", "additional_chat_templates/*.jinja", "generation_config.json",
               *LICENCE_FILES)  # fmt: skip


def write_checkpoint(
    tensors: Iterable[tuple[str, torch.Tensor]],
    config: dict[str, Any],
    source: Path | str,
    destination: Path | str,
    max_shard_size: int = 5 * 10**9,
    size: int = 0,
) -> None:
    """Write a Hugging Face directory: weights, config.json, the modeling file of a non-uniform model, the tokenizer.

    Args:
        tensors: name and tensor, each name once; consumed as a stream.
        config: the content of config.json; its `dtype` is set to that of the tensors.
        source: the original model, whose tokenizer, generation settings and licence are copied.
        destination: a directory that does not exist yet. Nothing of it is left behind when writing fails.
        max_shard_size: bytes of tensors in one file (a larger tensor gets a file of its own).
        size: bytes of all tensors, as far as known: what must be free on the disk.

    Raises:
        CheckpointError: the directory exists or cannot be written (no space, no permission).
    """
    with _directory(Path(destination), config, Path(source), size) as directory:
        dtype = _write_tensors(tensors, directory, max_shard_size)
        _write_config(directory, _with_dtype(config, dtype))
        for shard in directory.glob("*.safetensors"):
            shutil.copymode(directory / "config.json", shard)  # safetensors makes files that only their owner can read


def copy_checkpoint(
    source: Path, config: dict[str, Any], destination: Path, copy: Callable[[Path, Path], object], size: int = 0
) -> None:
    """The same directory from existing weight files; the other files are those of `write_checkpoint`.

    Args:
        config: the content of the source's config.json.
        copy: copies the first path to the second.
        size: as of `write_checkpoint`, which it raises as.
    """
    with _directory(destination, config, source, size) as directory:
        names = {file.name for file in tensor_files(source).values()}
        for name in sorted(names if names == {WEIGHTS} else {*names, INDEX}):
            copy(source / name, directory / name)
        _write_config(directory, _with_dtype(config, getattr(torch, stored_dtype(source))))


@contextmanager
def _directory(destination: Path, config: dict[str, Any], source: Path, size: int) -> Iterator[Path]:
    """The directory for weights and config.json; the other files are added at the end."""
    if destination.exists():
        raise CheckpointError.exists(destination)
    require_room(destination, size)
    try:
        destination.mkdir(parents=True)
        yield destination
        if config["model_type"] == MODEL_TYPE:
            shutil.copyfile(own_file(), destination / MODELING_FILE)
        _copy_kept_files(source, destination)
    except (OSError, SafetensorError) as error:
        raise given_up(destination, error, size) from error
    except BaseException:
        shutil.rmtree(destination, ignore_errors=True)
        raise


def _write_tensors(tensors: Iterable[tuple[str, torch.Tensor]], directory: Path, max_shard_size: int) -> torch.dtype:
    """Write the shards and, of more than one, their index. Returns the dtype of the last floating tensor."""
    shards: list[list[str]] = []
    shard: dict[str, torch.Tensor] = {}
    size = total = 0
    dtype = torch.float32

    def part(number: int) -> Path:
        return directory / f"part-{number}.safetensors"  # its final name needs the number of shards

    def close() -> None:
        save_file(shard, part(len(shards)), metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    for name, tensor in tensors:
        if shard and size + tensor.nbytes > max_shard_size:
            close()
            size = 0
        shard[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
        total += tensor.nbytes
        dtype = tensor.dtype if tensor.is_floating_point() else dtype
    close()

    if len(shards) == 1:
        part(0).rename(directory / WEIGHTS)
        return dtype
    weight_map = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        part(number).rename(directory / file)
        weight_map.update(dict.fromkeys(names, file))
    _write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
    return dtype


def _with_dtype(config: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The config naming the dtype that is stored, under each key it uses (`torch_dtype` before transformers 5)."""
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    return {**config, **dict.fromkeys(keys, str(dtype).removeprefix("torch."))}


def _copy_kept_files(source: Path, destination: Path) -> None:
    for pattern in _KEPT_FILES:
        for path in sorted(source.glob(pattern)):
            if path.is_file() and path.suffix.lower() not in RUNNABLE:
                kept = destination / path.relative_to(source)
                kept.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, kept)
    _forget_tokenizer_class(destination / "tokenizer_config.json")


def _forget_tokenizer_class(path: Path) -> None:
    """Its `auto_map` names a file that is not copied; where there is a tokenizer.json, the tokenizer works by that alone."""
    try:
        settings = read_object(path)
    except (OSError, ValueError):
        return  # missing or unreadable: reported where it is needed
    if settings.pop("auto_map", None):
        stock = {"tokenizer_class": "PreTrainedTokenizerFast"} if path.with_name("tokenizer.json").is_file() else {}
        _write_json(path, settings | stock)


def _write_config(directory: Path, config: dict[str, Any]) -> None:
    """config.json. It names this package's code where a model needs it, and no other code."""
    named = {"auto_map": dict(AUTO_MAP)} if config["model_type"] == MODEL_TYPE else {}
    _write_json(directory / "config.json", {key: value for key, value in config.items() if key != "auto_map"} | named)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
