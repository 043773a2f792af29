"""Tensors kept on disk until they are needed: together they may be larger than memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import overload

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hgsp_core.checkpoint.room import given_up


class OnDisk:
    """A folder with a file for each call of `keep`; it does not exist before the first one."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: dict[str, Path] = {}

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """Write these tensors. If the disk is full, removes the folder and raises CheckpointError."""
        file = self._folder / f"{len(set(self._files.values()))}.safetensors"
        try:
            self._folder.mkdir(exist_ok=True)
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
        except (OSError, SafetensorError) as error:
            needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            raise given_up(self._folder, error, needed) from error
        self._files |= dict.fromkeys(tensors, file)

    @overload
    def get(self, name: str) -> Tensor | None: ...

    @overload
    def get(self, name: str, otherwise: Tensor) -> Tensor: ...

    def get(self, name: str, otherwise: Tensor | None = None) -> Tensor | None:
        """The tensor of that name, or `otherwise` where none was kept."""
        if name not in self._files:
            return otherwise
        with safe_open(self._files[name], framework="pt") as file:
            return file.get_tensor(name)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._files.clear()
