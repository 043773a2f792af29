"""The calibration set as micro-batches, each with the arguments that the layers are called with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hgsp_core.engine.calls import Call, record_calls
from hgsp_core.engine.errors import EngineError
from hgsp_core.engine.findings import is_finite
from hgsp_core.engine.parallel import share
from hgsp_core.errors import NumericError

if TYPE_CHECKING:
    from hgsp_core.engine.weights import Weights


@dataclass(frozen=True)
class Batch:
    """A micro-batch: its token ids [batch, seq_len], and how each layer is called with it."""

    ids: Tensor
    calls: Sequence[Call]

    @property
    def predicted(self) -> int:
        """Every token but the first of each sample."""
        return self.ids.numel() - self.ids.shape[0]


@dataclass(frozen=True)
class Batches:
    """This process's micro-batches; `tokens` and `predicted` count the whole set, over all processes."""

    of_process: Sequence[Batch]
    tokens: int
    predicted: int

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.of_process)

    def __len__(self) -> int:
        return len(self.of_process)


NO_BATCHES = Batches((), 0, 0)


def embed(
    weights: Weights, tokens: np.ndarray, batch_size: int, gradient_batches: Iterable[int] = ()
) -> tuple[Batches, list[Tensor]]:
    """Cut tokens [samples, seq_len] into micro-batches and look up their embeddings.

    Args:
        batch_size: maximum samples of a micro-batch.
        gradient_batches: sample counts whose multiples no micro-batch may straddle.

    Returns:
        the batches, and for each the residual stream that enters the first layer [batch, seq_len, hidden].

    Raises:
        EngineError: no samples, samples shorter than two tokens, or a token that the embedding does not have.
        NumericError: the embedding is not finite.
    """
    if len(tokens) == 0:
        raise EngineError.no_tokens()
    if tokens.shape[1] < 2:
        raise EngineError.too_short(tokens.shape[1])
    rows = weights.layout.outside[f"{weights.layout.architecture.embed}.weight"][0]
    if tokens.max() >= rows:
        raise EngineError.unknown_token(int(tokens.max()), rows)
    common = gcd(*gradient_batches)  # 0 where there are none
    size = max(s for s in range(1, batch_size + 1) if common % s == 0) if common else batch_size
    ids_of_process = torch.from_numpy(np.ascontiguousarray(share(tokens, gradient_batches))).to(weights.device)
    architecture = weights.layout.architecture
    layers = [weights.model.get_submodule(layer.module) for layer in weights.layout.layers]
    batches, streams = [], []
    calls_of: dict[torch.Size, list[Call]] = {}  # nothing but a batch's shape matters: there is no padding
    with weights.outside(architecture.embed):
        for ids in ids_of_process.split(size):
            stream, calls = record_calls(weights.model, layers, ids)
            batches.append(Batch(ids, calls_of.setdefault(ids.shape, calls)))
            streams.append(stream)
    if not is_finite(*streams):
        raise NumericError.weight(f"{architecture.embed}.weight")
    return Batches(batches, tokens.size, tokens.size - len(tokens)), streams
