"""The backward half of the pass: from the last layer to the first, gradients are reduced and freed layer by layer.

Weight gradients exist for one layer at a time, in fp32, summed over the calibration set. They equal those of one
`loss.backward()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hgsp_core.engine.batches import Batch, Batches
from hgsp_core.engine.collectors import Collector
from hgsp_core.engine.ending import ending
from hgsp_core.engine.findings import Findings, is_finite
from hgsp_core.engine.forward import unwatched
from hgsp_core.engine.layer import Layer, differentiable
from hgsp_core.engine.loss import loss_gradient
from hgsp_core.engine.sums import Sums
from hgsp_core.engine.trail import Trail
from hgsp_core.errors import NumericError

if TYPE_CHECKING:
    from hgsp_core.engine.weights import Weights

#: gradients with respect to logits are in [-1, 1]; in fp16 most of them would underflow
FP16_HEAD_SCALE = 2.0**8


def loss_slopes(weights: Weights, batches: Batches, streams: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """A scale, and the gradient of the *summed* loss with respect to each stream after the last layer, times that scale.

    Raises:
        NumericError: the loss is not finite.
    """
    return head_slopes(weights, batches, streams, [batch.ids for batch in batches])


def head_slopes(
    weights: Weights, batches: Batches, streams: Sequence[Tensor], targets: Sequence[Tensor]
) -> tuple[float, list[Tensor]]:
    """As `loss_slopes`, for -log p of other targets (see `loss_gradient`). targets: per micro-batch [batch, seq_len]."""
    scale = FP16_HEAD_SCALE if weights.dtype == torch.float16 else 1.0
    with ending(weights) as end:
        losses, slopes = zip(
            *(loss_gradient(end, x, wanted, scale) for x, wanted in zip(streams, targets, strict=True)),
            strict=False,
        )
        loss = sum(losses, torch.zeros(()))
        if not is_finite(loss):
            for name, module in end.modules.items():
                if not is_finite(module.get_parameter("weight")):
                    raise NumericError.weight(f"{name}.weight")
            raise NumericError.loss(float(loss), str(weights.dtype).removeprefix("torch."))
    return scale, list(slopes)


#: takes a layer's output gradients back through it: each micro-batch's are replaced by those of what entered the layer, and
#: the sums get what their collectors see. Returns the layer as `Collector.reduce` sees it
Through = Callable[[Layer, nn.Module, Batches, Trail, float, list[Tensor], Mapping[Collector, Sums]], Layer]


def backward(
    weights: Weights,
    batches: Batches,
    trail: Trail,
    scale: float,
    slopes: Sequence[Tensor],
    collectors: Sequence[Collector],
    findings: Findings,
    step: Callable[[], None],
    through: Through,
) -> None:
    """Bring the output gradients back through every layer, the last one first, and collect on the way.

    Args:
        trail: what the forward half left; consumed.
        slopes: per micro-batch [batch, seq_len, hidden], `scale` times the gradient of the summed loss with respect to
            the output of the last layer.
        step: called after each layer.
        through: `by_weights`, or `by_activations` (`slopes.py`).
    """
    slopes = list(slopes)
    for index, module in weights.layers(reversed(range(len(weights.layout.layers)))):
        scale *= rescale(slopes)
        sums = {collector: Sums() for collector in collectors}
        entered = Layer.of(weights.layout.layers[index], module, batches.tokens, batches.predicted)
        layer = through(entered, module, batches, trail, scale, slopes, sums)
        for collector in collectors:
            findings.add(collector, layer, sums[collector])
        step()


def by_weights(
    layer: Layer,
    module: nn.Module,
    batches: Batches,
    trail: Trail,
    scale: float,
    slopes: list[Tensor],
    sums: Mapping[Collector, Sums],
) -> Layer:
    """A `Through` that takes the gradients of the layer's weights as well."""
    index, gradients = layer.layout.index, Sums()
    open_batches = {size: _GradientBatch(size) for c in sums if (size := c.gradient_batch)}
    with differentiable(layer.layout, module) as parameters, torch.enable_grad():
        for b, batch in enumerate(batches):
            passage = trail.take(index, b, partial(unwatched(module), batch.calls[index]))
            wanted = [*parameters.values(), passage.before] if index else list(parameters.values())
            found = torch.autograd.grad(passage.after, wanted, slopes[b])
            slopes[b] = found[-1]
            for name, gradient in zip(parameters, found, strict=False):  # the last is of x
                gradients.add(name, gradient)
            for size, part in open_batches.items():
                part.add(batch, dict(zip(parameters, found, strict=False)))
                if part.samples == size or b == len(batches) - 1:
                    seen = replace(layer, gradients=part.mean(scale))
                    for collector, own in sums.items():
                        if collector.gradient_batch == size:
                            collector.observe_gradient(seen, own)
                    open_batches[size] = _GradientBatch(size)
    gradients.add_up()
    layer = replace(layer, gradients=_divided(gradients, scale * batches.predicted))
    _check_gradients(layer)
    return layer


class _GradientBatch:
    """The gradient of one batch of samples, accumulated over micro-batches."""

    def __init__(self, size: int) -> None:
        self.size, self.samples, self._predicted, self._sums = size, 0, 0, Sums()

    def add(self, batch: Batch, gradients: Mapping[str, Tensor]) -> None:
        self.samples += batch.ids.shape[0]
        self._predicted += batch.predicted
        for name, gradient in gradients.items():
            self._sums.add(name, gradient)

    def mean(self, scale: float) -> Mapping[str, Tensor]:
        return _divided(self._sums, scale * self._predicted)


def _divided(sums: Sums, by: float) -> Sums:
    for tensor in sums.values():
        tensor /= by
    return sums


def rescale(slopes: list[Tensor]) -> float:
    """In fp16, scale the largest output gradient to about 1 by a power of two, which is exact. Returns that power."""
    if slopes[0].dtype != torch.float16:
        return 1.0
    largest = float(torch.stack([slope.abs().max() for slope in slopes]).max())
    if not 0 < largest < float("inf"):
        return 1.0
    factor = 2.0 ** -round(float(torch.log2(torch.tensor(largest))))
    for slope in slopes:
        slope *= factor
    return factor


def _check_gradients(layer: Layer) -> None:
    if is_finite(*layer.gradients.values()):
        return
    for name, gradient in layer.gradients.items():
        if not is_finite(gradient):
            dtype = str(layer.weights[name].dtype).removeprefix("torch.")
            raise NumericError.activation(layer.layout.index, f"the gradient of '{name}'", dtype)
