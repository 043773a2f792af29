"""What a checkpoint directory holds, read without transformers: its config, and its tensors by name.

Names and shapes come from the headers of the safetensors files, so they cost no weights.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from hgsp_core.errors import CheckpointError, NumericError
from hgsp_core.files import read_object
from hgsp_core.forms import Form, Index, ModelConfig

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
#: what a tokenizer is made of, in its own and in older forms
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
)
#: under what terms a model may be used
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
_PICKLES = ("*.bin", "*.pt", "*.pth")
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def read_config(directory: Path | str) -> dict[str, Any]:
    """config.json.

    Raises:
        CheckpointError: no directory, no config.json, or one that is not a JSON object.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError.no_directory(directory)
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError.no_config(directory)
    return _read_json(path, ModelConfig)


def tensor_files(directory: Path | str) -> dict[str, Path]:
    """Tensor name -> the file that holds it, checked against the headers of all files.

    Raises:
        CheckpointError: no safetensors, a file that is damaged or missing, a tensor that its shard does not hold.
    """
    return {name: file for name, (file, _) in _headers(Path(directory)).items()}


def tensor_shapes(directory: Path | str) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape. Raises as `tensor_files`."""
    return {name: shape for name, (_, shape) in _headers(Path(directory)).items()}


def iter_tensors(directory: Path | str, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor, one in memory at a time; floating-point ones as `dtype`, where given."""
    files = tensor_files(directory)
    for path in sorted(set(files.values())):
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():
                if name in files:
                    tensor = shard.get_tensor(name)
                    yield name, tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def stored_dtype(directory: Path | str) -> str:
    """The number type that most parameters are stored in, by its torch name.

    Raises:
        CheckpointError: a type that cannot be pruned (quantised weights).
    """
    sizes: Counter[str] = Counter()
    for path in set(tensor_files(directory).values()):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():
                part = file.get_slice(name)
                if part.get_dtype() not in _DTYPES:
                    raise CheckpointError.quantised(path, f"'{name}' as {part.get_dtype()}", list(_DTYPES.values()))
                sizes[part.get_dtype()] += prod(part.get_shape())
    return _DTYPES[sizes.most_common(1)[0][0]]


def require_range(directory: Path | str, names: Iterable[str], dtype: str) -> None:
    """Raises NumericError where a finite value of one of the tensors is too large for `dtype`. Reads all of them."""
    import torch

    largest = torch.finfo(getattr(torch, dtype)).max
    wanted = set(names)
    for name, tensor in iter_tensors(directory):
        if name in wanted and (tensor.abs() > largest).logical_and(tensor.isfinite()).any():
            value = tensor[tensor.isfinite()].abs().max().item()
            raise NumericError.overflow(name, value, dtype, largest)


def weight_bytes(directory: Path | str) -> int:
    """Size on disk of the weight files."""
    return sum(path.stat().st_size for path in set(tensor_files(directory).values()))


def tokenizer_digest(directory: Path | str) -> str:
    """sha256 over the tokenizer's files: the same text and digest give the same tokens."""
    digest = hashlib.sha256()
    for path in sorted(p for pattern in TOKENIZER_FILES for p in Path(directory).glob(pattern) if p.is_file()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _headers(directory: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    if not directory.is_dir():
        raise CheckpointError.no_directory(directory)
    if (directory / INDEX).is_file():
        return _sharded_headers(directory)
    if (directory / WEIGHTS).is_file():
        return {name: (directory / WEIGHTS, shape) for name, shape in _file_header(directory / WEIGHTS).items()}
    pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
    raise CheckpointError.pickles(directory, pickles) if pickles else CheckpointError.no_weights(directory)


def _sharded_headers(directory: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    weight_map = _read_json(directory / INDEX, Index)["weight_map"]
    for shard in weight_map.values():
        if Path(shard).name != shard:
            raise CheckpointError.bad_json(directory / INDEX, f"'weight_map' names {shard!r}, which is no file beside it")
    shards = {}
    for name in sorted(set(weight_map.values())):
        if not (directory / name).is_file():
            raise CheckpointError.no_shard(directory / name, INDEX)
        shards[name] = _file_header(directory / name)
    headers = {}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise CheckpointError.not_in_shard(name, directory / shard, INDEX)
        headers[name] = (directory / shard, shards[shard][name])
    return headers


def _file_header(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError.damaged(path, error) from error


def _read_json(path: Path, form: type[Form]) -> dict[str, Any]:
    try:
        return read_object(path, form)
    except (OSError, ValueError) as error:
        raise CheckpointError.bad_json(path, str(error)) from None
