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
from hgsp_core.checkpoint.read import DTYPES, float_places
from hgsp_core.checkpoint.stored import Part, in_memory
from hgsp_core.errors import NumericError
from hgsp_core.model.architecture import Architecture


class Shards:
    """The tensors of a checkpoint directory by name. `bytes_read` counts what has come from its files.

    With an architecture the names are those in memory, where one tensor holds all experts of a layer.
    """

    def __init__(self, directory: Path | str, architecture: Architecture | None = None):
        """Raises CheckpointError as `float_places`, LayoutError as `in_memory`."""
        self._stored = in_memory(float_places(directory), architecture)
        self.bytes_read = 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored[name].shape

    def dtype(self, name: str) -> torch.dtype:
        """As stored."""
        return getattr(torch, DTYPES[self._stored[name].parts[0].place.dtype])

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor in memory of its own; as `dtype`, where given."""
        target = torch.empty(self.shape(name), dtype=dtype or self.dtype(name))
        self.read_into(name, target)
        return target

    def read_into(self, name: str, target: Tensor) -> None:
        """Fill `target` (contiguous, on the CPU) with a tensor, converted to the target's dtype.

        Raises:
            CheckpointError: the tensor has another shape, or the file ends before it does.
        """
        stored = self._stored[name]
        if stored.shape != tuple(target.shape):
            raise CheckpointError.other_shape(stored.parts[0].place.file, name, stored.shape, target.shape)
        for part in stored.parts:
            self._read_part(part, part.of(target))

    def _read_part(self, part: Part, target: Tensor) -> None:
        place, dtype = part.place, getattr(torch, DTYPES[part.place.dtype])
        stored = target if target.dtype == dtype else torch.empty(place.shape, dtype=dtype)
        raw = stored.view(-1).view(torch.uint8).numpy().data
        with open(place.file, "rb", buffering=0) as file:
            done = 0
            while done < len(raw):  # one system call reads at most 2 GiB
                count = os.preadv(file.fileno(), [raw[done:]], place.offset + done)
                if count == 0:
                    raise CheckpointError.damaged(place.file, EOFError(f"'{part.name}' is cut off"))
                done += count
        self.bytes_read += done
        if stored is not target:
            target.copy_(stored)


def read_tensors(
    directory: Path | str,
    names: Iterable[str] | None = None,
    dtype: torch.dtype | None = None,
    architecture: Architecture | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """The named tensors (None: all of them), in that order, each in memory of its own; as `dtype`, where given.

    `architecture`: as of `Shards`.
    """
    shards = Shards(directory, architecture)
    for name in shards if names is None else names:
        yield name, shards.read(name, dtype)


def require_range(
    directory: Path | str, names: Iterable[str], dtype: str, architecture: Architecture | None = None
) -> None:
    """Raises NumericError where a finite value of one of the tensors is too large for `dtype`. Reads all of them."""
    largest = torch.finfo(getattr(torch, dtype)).max
    for name, tensor in read_tensors(directory, names, None, architecture):
        if (tensor.abs() > largest).logical_and(tensor.isfinite()).any():
            value = tensor[tensor.isfinite()].abs().max().item()
            raise NumericError.overflow(name, value, dtype, largest)
