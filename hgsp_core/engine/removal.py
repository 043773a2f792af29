"""Losses of the model without each layer and each block, from one pass over the layers.

At layer j, the streams of all models "without i", i <= j, are computed along with the model's own. They differ only from
layer i on, so the pass costs N/2 forwards per kind for N layers instead of N, and loads each weight once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hgsp_core.engine.batches import Batch, Batches
from hgsp_core.engine.calls import Output
from hgsp_core.engine.collectors import RemovalLoss
from hgsp_core.engine.ending import ending
from hgsp_core.engine.findings import Findings
from hgsp_core.engine.forward import watched
from hgsp_core.engine.layer import Layer
from hgsp_core.engine.loss import loss_sum
from hgsp_core.engine.memory import SHARE, free_bytes
from hgsp_core.engine.sums import Sums

if TYPE_CHECKING:
    from hgsp_core.engine.weights import Weights

#: key of the whole model; "3 mlp" is the model without the MLP of layer 3, "3 layer" without that layer
WHOLE = ""


def removal_losses(
    weights: Weights,
    batches: Batches,
    streams: Sequence[Tensor],
    collector: RemovalLoss,
    findings: Findings,
    step: Callable[[], None],
) -> None:
    """Measure every removal loss on the samples in `batches`.

    Args:
        streams: what enters the first layer, per micro-batch [batch, seq_len, hidden].
        step: called after each layer, `visits` times in all.
    """
    losses = Sums()
    size = _batches_at_once(weights, streams)
    for start in range(0, len(batches), size):
        _walk(weights, batches.of_process[start : start + size], streams[start : start + size], losses, step)
    for layout in weights.layout.layers:
        sums = Sums({kind: losses[f"{layout.index} {kind}"].clone() for kind in ("layer", *layout.blocks)})
        sums[WHOLE] = losses[WHOLE].clone()
        findings.add(collector, Layer(layout, {}, batches.predicted), sums)


def visits(weights: Weights, streams: Sequence[Tensor]) -> int:
    """Number of visits to layers."""
    return len(weights.layout.layers) * -(-len(streams) // _batches_at_once(weights, streams))


def _walk(
    weights: Weights, batches: Sequence[Batch], streams: Sequence[Tensor], losses: Sums, step: Callable[[], None]
) -> None:
    """Add the summed loss of every variant of the model over some micro-batches."""
    variants = [{WHOLE: stream} for stream in streams]  # per micro-batch: what the model is without -> its stream
    with torch.no_grad():
        for index, module in weights.layers(range(len(weights.layout.layers))):
            layout = weights.layout.layers[index]
            for b, batch in enumerate(batches):
                call = batch.calls[index]
                with watched(layout, module) as run:
                    passage = run(call, variants[b][WHOLE])
                *early, (last, before_last, _) = passage.residuals()
                parting = {f"{index} layer": passage.before, f"{index} {last}": before_last}
                for axis, _, _ in early:
                    with _silent(module.get_submodule(layout.blocks[axis].axis.block)):
                        parting[f"{index} {axis}"] = call(module, passage.before)
                for lack, stream in variants[b].items():
                    variants[b][lack] = passage.after if lack == WHOLE else call(module, stream)
                variants[b] |= parting
            step()
        with ending(weights) as end:
            for batch, streams_of in zip(batches, variants, strict=True):
                for lack, stream in streams_of.items():
                    losses.add(lack, loss_sum(end, stream, batch.ids))


def _batches_at_once(weights: Weights, streams: Sequence[Tensor]) -> int:
    """Number of micro-batches whose variants fit in memory, at least 1; streamed weights are read once for all of them."""
    if weights.stays:
        return 1
    variants = 1 + len(weights.layout.layers) * (1 + len(weights.layout.architecture.axes))
    return max(1, int(SHARE * free_bytes(weights.device) // (variants * max(stream.nbytes for stream in streams))))


@contextmanager
def _silent(block: nn.Module) -> Iterator[None]:
    """Within the context the block adds zero to the residual stream."""

    def zero(module: nn.Module, arguments: Sequence[Tensor], output: Output) -> Output:
        if isinstance(output, tuple):
            return torch.zeros_like(output[0]), *output[1:]
        return torch.zeros_like(output)

    with block.register_forward_hook(zero):
        yield
