"""What the forward half keeps for the backward half: autograd graphs, or the streams from which layers run again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from hgsp_core.engine.layer import Passage

Run = Callable[[Tensor], Passage]


class Trail(Protocol):
    #: whether the forward half must run with gradients
    keeps_graphs: bool

    def put(self, layer: int, batch: int, passage: Passage) -> None:
        """Keep the stream [batch, seq_len, hidden] that enters a layer, or the passage with its graph."""

    def take(self, layer: int, batch: int, run: Run) -> Passage:
        """The passage, which is then forgotten. If only the stream was kept, it is run(stream), with a graph from the stream."""


class Graphs:
    """The graphs: nothing is run twice, and every activation of the calibration set is in memory."""

    keeps_graphs = True

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], Passage] = {}

    def put(self, layer: int, batch: int, passage: Passage) -> None:
        self._kept[layer, batch] = passage

    def take(self, layer: int, batch: int, run: Run) -> Passage:
        return self._kept.pop((layer, batch))


class Boundaries:
    """The streams that enter the layers, on a device of choice; each layer is run again."""

    keeps_graphs = False

    def __init__(self, device: torch.device):
        self._device = device
        self._kept: dict[tuple[int, int], tuple[Tensor, torch.device]] = {}

    def put(self, layer: int, batch: int, passage: Passage) -> None:
        self._kept[layer, batch] = passage.before.detach().to(self._device), passage.before.device

    def take(self, layer: int, batch: int, run: Run) -> Passage:
        stream, home = self._kept.pop((layer, batch))
        return run(stream.to(home).requires_grad_())


class DiskBoundaries:
    """The streams that enter the layers, in one temporary file that is deleted with the process; each layer is run again."""

    keeps_graphs = False

    def __init__(self, directory: str | None = None):
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - open as long as this object
        self._end = 0
        self._kept: dict[tuple[int, int], tuple[int, torch.Size, torch.dtype, torch.device]] = {}

    def put(self, layer: int, batch: int, passage: Passage) -> None:
        x = passage.before
        raw = x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        self._kept[layer, batch] = self._end, x.shape, x.dtype, x.device
        while raw:
            written = os.pwrite(self._file.fileno(), raw, self._end)
            self._end += written
            raw = raw[written:]

    def take(self, layer: int, batch: int, run: Run) -> Passage:
        offset, shape, dtype, home = self._kept.pop((layer, batch))
        stream = torch.empty(shape, dtype=dtype)
        raw = stream.view(-1).view(torch.uint8).numpy().data
        while raw:
            read = os.preadv(self._file.fileno(), [raw], offset)
            offset += read
            raw = raw[read:]
        return run(stream.to(home).requires_grad_())
