"""What a checkpoint directory holds, read without transformers: its config, and its tensors by name.

Names and shapes come from the headers of the safetensors files, so they cost no weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.trust import without_code
from hgsp_core.files.forms import Form, Index, ModelConfig
from hgsp_core.files.text import read_object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
#: what a tokenizer is made of, in its own and in older forms
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
                   "*.tiktoken", "tekken.json")  # fmt: skip
#: under what terms a model may be used
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
_PICKLES = ("pytorch_model*.bin", "model*.bin", "*.pt", "*.pth")
_CHUNK = 1 << 24  # bytes
_ADAPTER = "adapter_config.json"
#: dtypes that can be pruned: the format's name -> torch's
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
#: dtypes that config.json may name; what the files hold counts
_FLOATS = (*DTYPES.values(), "float64")
#: buffers that old checkpoints store and that every transformers version computes anew
_IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")
#: what a wrapper adds to the names of tensors -> the wrapper
_WRAPPERS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "module": "DataParallel or DDP",
    "base_model.model": "peft",
}
#: the task in the name of a transformers class: LlamaForSequenceClassification
_TASK = re.compile(r"(?<=[a-z\d])For([A-Z]\w*)$")
_GENERATES = ("CausalLM", "ConditionalGeneration")


@dataclass(frozen=True)
class Place:
    """Where a tensor is stored: `offset` bytes into the file. `dtype` is the format's own name, such as BF16."""

    file: Path
    offset: int
    size: int
    shape: tuple[int, ...]
    dtype: str


def read_config(directory: Path | str) -> dict[str, Any]:
    """config.json of a language model.

    Raises:
        CheckpointError: no directory of a language model (the message names what it is), no config.json, one that is not
            a JSON object, or a model with code (`trust`).
    """
    directory = Path(directory)
    require_model(directory)
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError.no_config(directory)
    config = read_json(path, ModelConfig)
    if config.get("head_dim", 0) is None:
        del config["head_dim"]  # means absent, but not to every class of transformers
    without_code(path, config)
    for name in config.get("architectures") or ():
        task = _TASK.search(name)
        if task and task[1] not in _GENERATES:
            raise CheckpointError.other_task(path, name)
    for key in ("dtype", "torch_dtype"):
        if isinstance(config.get(key), str) and config[key] not in _FLOATS:
            raise CheckpointError.number_type(path, key, config[key], list(DTYPES.values()))
    rows, pad = config.get("vocab_size"), config.get("pad_token_id")
    if isinstance(rows, int) and isinstance(pad, int) and not -rows <= pad < rows:
        raise CheckpointError.token_id(path, "pad_token_id", pad, rows)
    return config


def require_model(path: Path) -> None:
    """Raises CheckpointError, which names what the path is, where it is not a directory that may hold a model."""
    if path.is_file():
        raise CheckpointError.gguf(path) if path.suffix == ".gguf" else CheckpointError.file(path)
    if any(path.glob("*.gguf")) and not any(path.glob("*.safetensors")):
        raise CheckpointError.gguf(path)
    if not path.is_dir():
        raise CheckpointError.no_directory(path)
    if (path / _ADAPTER).is_file():
        raise CheckpointError.adapter(path)
    if (path / "snapshots").is_dir() and not (path / "config.json").is_file():
        raise CheckpointError.hub_cache(path, sorted(p for p in (path / "snapshots").iterdir() if p.is_dir()))


def places(directory: Path | str) -> Mapping[str, Place]:
    """Tensor name -> where it is stored. As in transformers, a single file precedes an index, and ignored buffers are left out.

    Raises:
        CheckpointError: no safetensors, a file that is damaged or missing, a tensor that its shard does not hold or that
            two shards hold, names with the prefix of a wrapper.
    """
    directory = Path(directory)
    require_model(directory)
    if (directory / WEIGHTS).is_file():
        found = _header(directory / WEIGHTS)
    elif (directory / INDEX).is_file():
        found = _sharded(directory)
    else:
        pickles = sorted({path.name for pattern in _PICKLES for path in directory.glob(pattern)})
        raise CheckpointError.pickles(directory, pickles) if pickles else CheckpointError.no_weights(directory)
    for part, wrapper in _WRAPPERS.items():
        for name in found:
            if name.startswith(f"{part}.") or (part[0] == "_" and f".{part}." in name):
                raise CheckpointError.wrapped(directory, name, f"{part}.", wrapper)
    return {name: place for name, place in found.items() if not name.endswith(_IGNORED_SUFFIXES)}


def tensor_files(directory: Path | str) -> dict[str, Path]:
    """Tensor name -> the file that holds it. Raises as `places`."""
    return {name: place.file for name, place in places(directory).items()}


def tensor_shapes(directory: Path | str) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape. Raises as `places`."""
    return {name: place.shape for name, place in places(directory).items()}


def same_bytes(one: Place, other: Place) -> bool:
    """Whether two tensors are stored alike: shape, dtype and every byte."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.offset)
        second.seek(other.offset)
        left = one.size
        while left:
            size = min(left, _CHUNK)
            if first.read(size) != second.read(size):
                return False
            left -= size
    return True


def float_places(directory: Path | str) -> Mapping[str, Place]:
    """As `places`, of dtypes that can be pruned. Raises CheckpointError for others: quantised weights."""
    found = places(directory)
    for name, place in found.items():
        if place.dtype not in DTYPES:
            raise CheckpointError.quantised(place.file, f"'{name}' as {place.dtype}", list(DTYPES.values()))
    return found


def stored_dtype(directory: Path | str) -> str:
    """The dtype that most parameters are stored in, by its torch name. Raises as `float_places`."""
    sizes: Counter[str] = Counter()
    for place in float_places(directory).values():
        sizes[place.dtype] += prod(place.shape)
    return DTYPES[sizes.most_common(1)[0][0]]


def weight_bytes(directory: Path | str) -> int:
    """Size on disk of the weight files."""
    return sum(path.stat().st_size for path in set(tensor_files(directory).values()))


def tokenizer_digest(directory: Path | str) -> str:
    """sha256 over the tokenizer's files: the same text and digest give the same tokens."""
    digest = hashlib.sha256()
    for path in sorted(p for pattern in TOKENIZER_FILES for p in Path(directory).glob(pattern) if p.is_file()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def largest_token(directory: Path | str) -> float:
    """The largest id that the tokenizer can give; infinity where only the tokenizer's own class can tell."""
    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        return math.inf
    content = read_json(path)
    try:
        vocabulary = content["model"]["vocab"]
        ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else range(len(vocabulary))
        return max((*ids, *(token["id"] for token in content.get("added_tokens") or ())), default=-1)
    except (KeyError, TypeError):
        return math.inf


def shard_names(directory: Path) -> list[str]:
    """The weight files that the index names. Raises CheckpointError where the index cannot be read."""
    return sorted(set(_weight_map(directory).values()))


def _weight_map(directory: Path) -> dict[str, str]:
    weight_map = read_json(directory / INDEX, Index)["weight_map"]
    if not weight_map:
        raise CheckpointError.bad_json(directory / INDEX, "'weight_map' is empty")
    for shard in weight_map.values():
        if Path(shard).name != shard:
            raise CheckpointError.bad_json(directory / INDEX, f"'weight_map' names {shard!r}, not a file beside it")
    return weight_map


def _sharded(directory: Path) -> dict[str, Place]:
    weight_map = _weight_map(directory)
    found: dict[str, Place] = {}
    for name in sorted(set(weight_map.values())):
        if not (directory / name).is_file():
            raise CheckpointError.no_shard(directory / name, INDEX)
        shard = _header(directory / name)
        if twice := sorted(shard.keys() & found.keys()):
            raise CheckpointError.in_two_shards(twice[0], found[twice[0]].file, directory / name)
        found |= shard
    for name, file in weight_map.items():
        if name not in found or found[name].file.name != file:
            raise CheckpointError.not_in_shard(name, directory / file, INDEX)
    return found


def _header(path: Path) -> dict[str, Place]:
    """The tensors of one file. The library checks the header; only it does not tell where a tensor begins."""
    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        found = {}
        for name, entry in ((name, header[name]) for name in names):
            begin, end = entry["data_offsets"]
            found[name] = Place(path, 8 + length + begin, end - begin, tuple(entry["shape"]), entry["dtype"])
        return found
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError.damaged(path, error) from error


def read_json(path: Path, form: type[Form] | None = None) -> dict[str, Any]:
    """As `read_object`, for a file of a checkpoint. Raises CheckpointError."""
    try:
        return read_object(path, form)
    except (OSError, ValueError) as error:
        raise CheckpointError.bad_json(path, str(error)) from None
