"""The forward half of a sweep: one layer after another, all micro-batches through each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from hgsp_core.engine.batches import Batches
from hgsp_core.engine.calls import Call
from hgsp_core.engine.collectors import Collector, Sums
from hgsp_core.engine.findings import Findings, check_weights
from hgsp_core.engine.layer import Layer, Passage, differentiable
from hgsp_core.engine.trail import Trail
from hgsp_core.errors import NumericError
from hgsp_core.model.layout import LayerLayout


def forward(
    source,
    batches: Batches,
    streams: Sequence[Tensor],
    collectors: Sequence[Collector],
    findings: Findings,
    trail: Trail | None,
    step: Callable[[], None],
) -> list[Tensor]:
    """Send the streams through every layer and collect on the way; without batches, only weights are seen.

    Args:
        streams: what enters the first layer, per micro-batch [batch, seq_len, hidden].
        trail: filled for the backward half, where one follows.
        step: called after each layer.

    Returns:
        the streams after the last layer.

    Raises:
        NumericError: a weight, activation or statistic is not finite.
    """
    streams = list(streams)
    keeps_graphs = trail is not None and trail.keeps_graphs
    for index, module in source.layers(range(len(source.layout.layers))):
        layer = Layer.of(source.layout.layers[index], module, batches.tokens)
        sums = {collector: Sums() for collector in collectors}
        totals = []
        with ExitStack() as stack:
            if keeps_graphs:
                stack.enter_context(differentiable(layer.layout, module))
            stack.enter_context(torch.set_grad_enabled(keeps_graphs))
            run = stack.enter_context(watched(layer.layout, module)) if collectors else _unwatched(module)
            for b, batch in enumerate(batches):
                x = streams[b].requires_grad_(keeps_graphs and index > 0)
                passage = run(batch.calls[index], x)
                if trail is not None:
                    trail.put(index, b, x, passage.after)
                passage = passage.detached()
                for collector in collectors:
                    collector.observe(layer, passage, sums[collector])
                streams[b] = passage.after
                totals.append(streams[b].sum(dtype=torch.float32))
        check_streams(layer, streams, totals)
        for collector in collectors:
            findings.add(collector, layer, sums[collector])
        step()
    return streams


@contextmanager
def watched(layout: LayerLayout, module: nn.Module, until: str = "") -> Iterator[Callable[[Call, Tensor], Passage]]:
    """A function that runs the layer on a micro-batch [batch, seq_len, hidden] and returns what passed through it.

    until: a linear, by its name relative to the layer, at which the run ends: its input is the last thing seen, and the
    passage's `after` is None.
    """
    added: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}

    def keep_added(axis: str):
        def hook(block, arguments, output):
            added[axis] = (output[0] if isinstance(output, tuple) else output).detach()

        return hook

    def keep_input(linear: str):
        def hook(module, arguments):
            inputs[linear] = arguments[0].detach()
            if linear == until:
                raise _Reached

        return hook

    def run(call: Call, x: Tensor) -> Passage:
        try:
            after = call(module, x)
        except _Reached:
            after = None
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


class _Reached(Exception):
    """The run has come to where it was to end."""


def _unwatched(module: nn.Module) -> Callable[[Call, Tensor], Passage]:
    return lambda call, x: Passage(x, call(module, x), {}, {})


def check_streams(layer: Layer, streams: Sequence[Tensor], totals: Sequence[Tensor]) -> None:
    """Raise NumericError if a stream that left the layer is not finite; `totals` are their sums: one look suffices."""
    if not totals or torch.stack(list(totals)).isfinite().all() or all(stream.isfinite().all() for stream in streams):
        return
    check_weights(layer)
    raise NumericError.activation(layer.layout.index, "its output", str(streams[0].dtype).removeprefix("torch."))
