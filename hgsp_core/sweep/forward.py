"""The forward half of a sweep: one layer after another, all micro-batches through each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from hgsp_core.errors import NumericError
from hgsp_core.layout import LayerLayout
from hgsp_core.sweep.batches import Batch, Boundaries
from hgsp_core.sweep.calls import Call
from hgsp_core.sweep.collectors import Collector, Sums
from hgsp_core.sweep.findings import Findings, check_weights
from hgsp_core.sweep.layer import Layer, Passage


def forward(
    source,
    batches: Sequence[Batch],
    streams: list[Tensor],
    collectors: Sequence[Collector],
    findings: Findings,
    boundaries: Boundaries | None,
    step: Callable[[], None],
) -> list[Tensor]:
    """Send the streams through every layer and collect on the way; without batches, only weights are seen.

    Args:
        streams: what enters the first layer, per micro-batch [batch, seq_len, hidden].
        boundaries: where the stream that enters each layer is kept, if a backward half follows.
        step: called after each layer.
    Returns:
        the streams after the last layer.
    Raises:
        NumericError: a weight, activation or statistic is not finite.
    """
    samples = sum(batch.ids.numel() for batch in batches)
    streams = list(streams)
    for index, module in source.layers(range(len(source.layout.layers))):
        layer = layer_of(source.layout.layers[index], module, samples)
        sums = {collector: Sums() for collector in collectors}
        totals = []
        with torch.no_grad(), watched(layer.layout, module) as run:
            for b, batch in enumerate(batches):
                passage = run(batch.calls[index], streams[b])
                for collector in collectors:
                    collector.observe(layer, passage, sums[collector])
                if boundaries is not None:
                    boundaries.put(index, b, streams[b])
                streams[b] = passage.after
                totals.append(passage.after.sum(dtype=torch.float32))
        check_stream(layer, streams, totals)
        for collector in collectors:
            findings.add(collector, layer, sums[collector])
        step()
    return streams


def layer_of(layout: LayerLayout, module: nn.Module, tokens: int) -> Layer:
    weights = {f"{layout.module}.{name}": parameter.detach() for name, parameter in module.named_parameters()}
    return Layer(layout, weights, tokens)


@contextmanager
def watched(layout: LayerLayout, module: nn.Module) -> Iterator[Callable[[Call, Tensor], Passage]]:
    """A function that runs the layer on a micro-batch [batch, seq_len, hidden] and returns what passed through it."""
    added: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}

    def keep_added(axis: str):
        def hook(block, arguments, output):
            added[axis] = (output[0] if isinstance(output, tuple) else output).detach()

        return hook

    def keep_input(linear: str):
        def hook(module, arguments):
            inputs[linear] = arguments[0].detach()

        return hook

    def run(call: Call, x: Tensor) -> Passage:
        after = call(module, x)
        passage = Passage(x, after, dict(added), dict(inputs))
        added.clear()
        inputs.clear()
        return passage

    with ExitStack() as hooks:
        for axis, block in layout.blocks.items():
            hooks.enter_context(module.get_submodule(block.axis.block).register_forward_hook(keep_added(axis)))
            for s in block.axis.slices:
                linear = module.get_submodule(s.module)
                hooks.enter_context(linear.register_forward_pre_hook(keep_input(s.module)))
        yield run


def check_stream(layer: Layer, streams: Sequence[Tensor], totals: Sequence[Tensor]) -> None:
    """Raise NumericError if a stream that left the layer is not finite; `totals` are their sums, one look at which suffices."""
    if not totals or torch.stack(list(totals)).isfinite().all() or all(stream.isfinite().all() for stream in streams):
        return
    check_weights(layer)
    raise NumericError.activation(layer.layout.index, "its output", str(streams[0].dtype).removeprefix("torch."))
