"""The calibration set on its way through the model: micro-batches, and the residual streams between layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hgsp_core.errors import NumericError, SweepError
from hgsp_core.sweep.calls import Call, record_calls
from hgsp_core.sweep.findings import is_finite


@dataclass(frozen=True)
class Batch:
    """A micro-batch: its token ids [batch, seq_len], and how each layer is called with it."""

    ids: Tensor
    calls: Sequence[Call]


def embed(source, tokens: np.ndarray, batch_size: int) -> tuple[list[Batch], list[Tensor]]:
    """Cut tokens [samples, seq_len] into micro-batches.

    Returns:
        the batches, and for each the residual stream that enters the first layer [batch, seq_len, hidden].
    Raises:
        SweepError: no samples, or samples shorter than two tokens. NumericError: the embedding is not finite.
    """
    if len(tokens) == 0:
        raise SweepError.no_tokens()
    if tokens.shape[1] < 2:
        raise SweepError.too_short(tokens.shape[1])
    architecture = source.layout.architecture
    layers = [source.model.get_submodule(layer.module) for layer in source.layout.layers]
    batches, streams = [], []
    calls_of: dict[torch.Size, list[Call]] = {}  # nothing but the shape of a batch matters: there is no padding
    with source.outside(architecture.embed):
        for ids in torch.from_numpy(np.ascontiguousarray(tokens)).to(source.device).split(batch_size):
            stream, calls = record_calls(source.model, layers, ids)
            if not is_finite(stream):
                raise NumericError.weight(f"{architecture.embed}.weight")
            batches.append(Batch(ids, calls_of.setdefault(ids.shape, calls)))
            streams.append(stream)
    return batches, streams


class Boundaries:
    """The residual stream that enters each layer, micro-batch by micro-batch, kept for the backward half."""

    def __init__(self):
        self._streams: dict[tuple[int, int], Tensor] = {}

    def put(self, layer: int, batch: int, stream: Tensor) -> None:
        self._streams[layer, batch] = stream

    def take(self, layer: int, batch: int) -> Tensor:
        """The stream, which is then no longer kept."""
        return self._streams.pop((layer, batch))
