"""The backward half of a sweep: the layers last to first, each rerun with gradients that are reduced and freed at once.

One layer's weight gradients exist at a time, in fp32 and summed over the whole set; they equal those of one plain
`loss.backward()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from hgsp_core.errors import NumericError
from hgsp_core.sweep.batches import Batch, Boundaries
from hgsp_core.sweep.collectors import Collector, Sums
from hgsp_core.sweep.findings import Findings, is_finite
from hgsp_core.sweep.forward import layer_of
from hgsp_core.sweep.loss import loss_gradient


def loss_slopes(source, batches: Sequence[Batch], streams: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """The mean loss over the set, and the gradient of the *summed* loss by each stream after the last layer.

    Raises:
        NumericError: the loss is not finite.
    """
    architecture = source.layout.architecture
    with source.outside(architecture.norm, architecture.head) as (norm, head):
        losses, slopes = zip(*(loss_gradient(norm, head, x, batch.ids, 1.0) for batch, x in zip(batches, streams)))
        loss = float(sum(losses)) / predicted_tokens(batches)
        if not is_finite(torch.tensor(loss)):
            for name, module in ((architecture.norm, norm), (architecture.head, head)):
                if not is_finite(module.weight):
                    raise NumericError.weight(f"{name}.weight")
            raise NumericError.loss(loss, str(source.dtype).removeprefix("torch."))
    return loss, list(slopes)


def backward(
    source,
    batches: Sequence[Batch],
    boundaries: Boundaries,
    slopes: list[Tensor],
    collectors: Sequence[Collector],
    findings: Findings,
    step: Callable[[], None],
) -> None:
    """Bring the slopes back through every layer and collect on the way.

    Args:
        boundaries: the stream that entered each layer; consumed.
        slopes: per micro-batch [batch, seq_len, hidden], the gradient of the summed loss by what leaves the last layer.
        step: called after each layer.
    """
    slopes = list(slopes)
    samples = sum(batch.ids.numel() for batch in batches)
    for index, module in source.layers(reversed(range(len(source.layout.layers)))):
        layer = layer_of(source.layout.layers[index], module, samples)
        gradients = Sums()
        with differentiable(layer, module) as parameters, torch.enable_grad():
            for b, batch in enumerate(batches):
                x = boundaries.take(index, b).detach().requires_grad_(index > 0)
                y = batch.calls[index](module, x)
                wanted = [*parameters.values(), x] if index else list(parameters.values())
                found = torch.autograd.grad(y, wanted, slopes[b])
                for name, gradient in zip(parameters, found):
                    gradients.add(name, gradient)
                slopes[b] = found[-1]
        for gradient in gradients.values():
            gradient /= predicted_tokens(batches)
        layer = replace(layer, gradients=gradients)
        check_gradients(layer)
        for collector in collectors:
            findings.add(collector, layer, Sums())
        step()


def predicted_tokens(batches: Sequence[Batch]) -> int:
    """Every token but the first of each sample."""
    return sum(batch.ids.numel() - batch.ids.shape[0] for batch in batches)


@contextmanager
def differentiable(layer, module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Full name -> parameter, for the tensors of the layer's units; within the context only these ask for gradients."""
    before = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.requires_grad_(False)
    prefix = f"{layer.layout.module}."
    parameters = {name: module.get_parameter(name.removeprefix(prefix)) for name in layer.unit_names()}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        yield parameters
    finally:
        for parameter, required in before.items():
            parameter.requires_grad_(required)


def check_gradients(layer) -> None:
    for name, gradient in layer.gradients.items():
        if not is_finite(gradient):
            dtype = str(layer.weights[name].dtype).removeprefix("torch.")
            raise NumericError.activation(layer.layout.index, f"the gradient of '{name}'", dtype)
