"""Total loss and logits of token windows, from resident or streamed weights.

`model_loss` gives the total loss of any transformers model and needs no data of its architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hgsp_core.engine.batches import Batches, embed
from hgsp_core.engine.ending import ending
from hgsp_core.engine.findings import Findings
from hgsp_core.engine.forward import forward
from hgsp_core.engine.loss import loss_sum
from hgsp_core.engine.memory import SHARE, free_bytes
from hgsp_core.engine.parallel import add_up, processes, share
from hgsp_core.errors import NumericError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hgsp_core.engine.weights import Weights

#: maximum bytes of logits in one forward pass of a transformers model; one window is always run
LOGITS_BYTES = 2**29


def total_loss(
    weights: Weights,
    tokens: np.ndarray,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    context: np.ndarray | None = None,
) -> float:
    """Σ -log p over the predicted tokens of the windows [windows, seq_len].

    `context` [windows]: number of tokens at the start of each window that are read but not predicted; None = 1.
    Free memory decides how many windows go through the layers together; streamed weights are read once for each such
    part. Several processes share the windows.

    Raises:
        NumericError: a weight or an activation is not finite.
    """
    total = torch.zeros((), dtype=torch.float64, device=weights.device)
    context = np.ones(len(tokens), dtype=np.int64) if context is None else context
    size = _windows_at_a_time(weights, tokens, batch_size)
    for start in range(0, len(tokens), size):
        part = slice(start, start + size)
        batches, streams = _through(weights, tokens[part], batch_size)
        read_only = torch.from_numpy(share(context[part])).to(weights.device).split(batch_size)
        with ending(weights) as end:
            for batch, stream, first in zip(batches, streams, read_only, strict=True):
                total += loss_sum(end, stream, batch.ids, first)
        progress(min(start + size, len(tokens)), len(tokens))
    add_up([total])
    return total.item()


@torch.no_grad()
def model_loss(
    model: PreTrainedModel,
    tokens: np.ndarray,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    context: np.ndarray | None = None,
) -> float:
    """As `total_loss`, for a transformers model with its own forward pass.

    Raises:
        NumericError: the loss is not finite.
    """
    context = np.ones(len(tokens), dtype=np.int64) if context is None else context
    size = _windows_at_once(model, tokens, batch_size)
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    for start in range(0, len(tokens), size):
        ids = torch.from_numpy(tokens[start : start + size]).to(model.device)
        first = torch.from_numpy(context[start : start + size]).to(model.device)
        predicted = torch.arange(1, ids.shape[1], device=model.device) >= first[:, None]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        total += cross_entropy(logits[predicted].float(), ids[:, 1:][predicted], reduction="sum")
        progress(min(start + size, len(tokens)), len(tokens))
    if not total.isfinite():
        raise NumericError.evaluation(total.item(), str(model.dtype).removeprefix("torch."))
    return total.item()


@torch.no_grad()
def window_logits(weights: Weights, tokens: np.ndarray, batch_size: int) -> Iterator[Tensor]:
    """Logits [seq_len, vocabulary] of each window in this process's share of `tokens` [windows, seq_len], one at a time.

    Raises:
        NumericError: a weight or an activation is not finite.
    """
    size = _windows_at_a_time(weights, tokens, batch_size)
    own = share(tokens)
    for start in range(0, len(own), size):
        _, streams = _through(weights, _of_every_process(own[start : start + size]), batch_size)
        with ending(weights) as end:
            for stream in streams:
                for window in stream:
                    yield end(window)


@torch.no_grad()
def model_logits(model: PreTrainedModel, tokens: np.ndarray, batch_size: int) -> Iterator[Tensor]:
    """As `window_logits`, for a transformers model with its own forward pass."""
    for ids in torch.from_numpy(share(tokens)).split(_windows_at_once(model, tokens, batch_size)):
        yield from model(input_ids=ids.to(model.device), use_cache=False).logits


def logits(weights: Weights, tokens: np.ndarray) -> Tensor:
    """Logits [windows, seq_len, vocabulary] of a few windows, the same in every process."""
    _, (stream,) = _through(weights, _of_every_process(tokens), len(tokens))
    with torch.no_grad(), ending(weights) as end:
        return torch.stack([end(window) for window in stream])


def _through(weights: Weights, tokens: np.ndarray, batch_size: int) -> tuple[Batches, list[Tensor]]:
    batches, streams = embed(weights, tokens, batch_size)
    nothing = Findings([], len(weights.layout.layers))
    return batches, forward(weights, batches, streams, [], nothing, None, lambda: None)


def _of_every_process(tokens: np.ndarray) -> np.ndarray:
    """The tokens repeated, so that the share of every process is all of them."""
    return np.concatenate([tokens] * processes())


def _windows_at_once(model: PreTrainedModel, tokens: np.ndarray, batch_size: int) -> int:
    """Number of windows in one forward pass of a transformers model, limited by their logits in fp32."""
    window = tokens.shape[1] * model.config.get_text_config().vocab_size * 4
    return max(1, min(batch_size, LOGITS_BYTES // window))


def _windows_at_a_time(weights: Weights, tokens: np.ndarray, batch_size: int) -> int:
    """One batch if the weights are resident; as many windows as fit in memory if they are streamed."""
    if weights.stays:
        return batch_size
    hidden = weights.layout.outside[f"{weights.layout.architecture.embed}.weight"][1]
    window = tokens.shape[1] * hidden * weights.dtype.itemsize * 4  # the stream, and a layer's activations
    return max(batch_size, int(SHARE * free_bytes(weights.device) / window))
