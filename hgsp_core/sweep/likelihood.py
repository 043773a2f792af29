"""What a model makes of token windows: its total loss and its logits, from resident or streamed weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from hgsp_core.sweep.batches import Batches, embed
from hgsp_core.sweep.findings import Findings
from hgsp_core.sweep.forward import forward
from hgsp_core.sweep.loss import loss_sum
from hgsp_core.sweep.memory import SHARE, free_bytes
from hgsp_core.sweep.parallel import add_up, processes


def total_loss(
    source, tokens: np.ndarray, batch_size: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> float:
    """Σ -log p over the predicted tokens of the windows [windows, seq_len]: all but the first of each.

    As many windows go through the layers at a time as memory has room for their streams; streamed weights are read once
    for each such part. Several processes share the windows.

    Raises:
        NumericError: a weight or an activation is not finite.
    """
    total = torch.zeros((), dtype=torch.float64, device=source.device)
    done = 0
    for part in _parts(source, tokens, batch_size):
        batches, streams = _through(source, part, batch_size)
        architecture = source.layout.architecture
        with source.outside(architecture.norm, architecture.head) as (norm, head):
            for batch, stream in zip(batches, streams):
                total += loss_sum(norm, head, stream, batch.ids)
        done += len(part)
        progress(done, len(tokens))
    add_up([total])
    return total.item()


def logits(source, tokens: np.ndarray) -> Tensor:
    """[windows, seq_len, vocabulary] of a few windows, in every process that asks."""
    everybodys = np.concatenate([tokens] * processes())  # each takes its share of these: all of the tokens
    _, (stream,) = _through(source, everybodys, len(tokens))
    architecture = source.layout.architecture
    with torch.no_grad(), source.outside(architecture.norm, architecture.head) as (norm, head):
        return head(norm(stream))


def _through(source, tokens: np.ndarray, batch_size: int) -> tuple[Batches, list[Tensor]]:
    batches, streams = embed(source, tokens, batch_size)
    nothing = Findings([], len(source.layout.layers))
    return batches, forward(source, batches, streams, [], nothing, None, lambda: None)


def _parts(source, tokens: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Windows in parts: a resident model takes a batch at a time, streamed weights as many as fit a part of memory."""
    size = batch_size
    if not source.stays:
        hidden = source.shards.shape(f"{source.layout.architecture.embed}.weight")[1]
        window = tokens.shape[1] * hidden * source.dtype.itemsize * 4  # the stream, and what a layer makes of it
        size = max(batch_size, int(SHARE * free_bytes(source.device) / window))
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size]
