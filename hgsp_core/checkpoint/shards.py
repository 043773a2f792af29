"""Reading single tensors of a safetensors checkpoint into memory that is already there.

`safetensors.safe_open` maps whole shards, which counts against a process's memory and reads page by page as a
tensor is touched. A streamed sweep wants each tensor read once, whole, ahead of its use, into a buffer of its own.
Format: https://huggingface.co/docs/safetensors (8 bytes of header length, JSON header, data).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.read import places

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = [str(dtype).removeprefix("torch.") for dtype in _DTYPES.values()]


class Shards:
    """The tensors of a checkpoint directory by name. `bytes_read` counts what has come from its files."""

    def __init__(self, directory: Path | str):
        """Raises CheckpointError as `places`, and for a number type that cannot be pruned."""
        self._places = places(directory)
        for name, place in self._places.items():
            if place.dtype not in _DTYPES:
                raise CheckpointError.quantised(place.file, f"'{name}' as {place.dtype}", _NAMES)
        self.bytes_read = 0

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        return self._places[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """As stored."""
        return _DTYPES[self._places[name].dtype]

    def read_into(self, name: str, target: Tensor) -> None:
        """Fill `target` (contiguous, on the CPU) with a tensor, converted to the target's dtype.

        Raises:
            CheckpointError: the tensor has another shape, or the file ends before it does.
        """
        place = self._places[name]
        if place.shape != tuple(target.shape):
            raise CheckpointError.other_shape(place.file, name, place.shape, target.shape)
        dtype = self.dtype(name)
        stored = target if target.dtype == dtype else torch.empty(place.shape, dtype=dtype)
        raw = stored.view(-1).view(torch.uint8).numpy().data
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
