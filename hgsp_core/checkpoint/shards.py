"""Reading single tensors of a safetensors checkpoint into memory that is already there.

`safetensors.safe_open` maps whole shards, which counts against a process's memory and reads page by page as a
tensor is touched. A streamed sweep wants each tensor read once, whole, ahead of its use, into a buffer of its own.
Format: https://huggingface.co/docs/safetensors (8 bytes of header length, JSON header, data).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from hgsp_core.checkpoint.read import INDEX, WEIGHTS
from hgsp_core.errors import CheckpointError
from hgsp_core.files import read_object
from hgsp_core.forms import Index

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = [str(dtype).removeprefix("torch.") for dtype in _DTYPES.values()]


@dataclass(frozen=True)
class _Place:
    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class Shards:
    """The tensors of a checkpoint directory by name. `bytes_read` counts what has come from its files."""

    def __init__(self, directory: Path | str):
        self._places = _places(Path(directory))
        self.bytes_read = 0

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        return self._places[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """As stored."""
        return self._places[name].dtype

    def read_into(self, name: str, target: Tensor) -> None:
        """Fill `target` (contiguous, on the CPU) with a tensor, converted to the target's dtype.

        Raises:
            CheckpointError: the tensor has another shape, or the file ends before it does.
        """
        place = self._places[name]
        if place.shape != tuple(target.shape):
            raise CheckpointError.other_shape(place.file, name, place.shape, target.shape)
        stored = target if target.dtype == place.dtype else torch.empty(place.shape, dtype=place.dtype)
        raw = memoryview(stored.view(-1).view(torch.uint8).numpy())
        with open(place.file, "rb", buffering=0) as file:
            done = 0
            while done < len(raw):  # one system call reads 2 GiB at the most
                count = os.preadv(file.fileno(), [raw[done:]], place.offset + done)
                if count == 0:
                    raise CheckpointError.damaged(place.file, EOFError(f"'{name}' is cut off"))
                done += count
        self.bytes_read += done
        if stored is not target:
            target.copy_(stored)


def read_tensors(
    directory: Path | str, names: Iterable[str], dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The named tensors, in that order, each in memory of its own; as `dtype`, where given."""
    shards = Shards(directory)
    for name in names:
        target = torch.empty(shards.shape(name), dtype=dtype or shards.dtype(name))
        shards.read_into(name, target)
        yield name, target


def _places(directory: Path) -> Mapping[str, _Place]:
    files = [directory / WEIGHTS]
    if (directory / INDEX).is_file():
        names = read_object(directory / INDEX, Index)["weight_map"].values()
        files = [directory / name for name in sorted(set(names))]
    return {name: place for file in files for name, place in _header(file).items()}


def _header(path: Path) -> dict[str, _Place]:
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
            places = {}
            for name, entry in header.items():
                if name != "__metadata__":
                    begin, end = entry["data_offsets"]
                    if entry["dtype"] not in _DTYPES:
                        raise CheckpointError.quantised(path, f"'{name}' as {entry['dtype']}", _NAMES)
                    place = _Place(path, 8 + length + begin, tuple(entry["shape"]), _DTYPES[entry["dtype"]])
                    assert end - begin == prod(place.shape) * place.dtype.itemsize
                    places[name] = place
            return places
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, AssertionError) as error:
        raise CheckpointError.damaged(path, error) from error
