"""The forward half of the pass: layer by layer, all micro-batches through each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hgsp_core.engine.batches import Batches
from hgsp_core.engine.calls import Output
from hgsp_core.engine.collectors import Collector
from hgsp_core.engine.findings import Findings, check_weights, is_finite
from hgsp_core.engine.layer import Beginning, Layer, Passage, Routed, differentiable, frozen
from hgsp_core.engine.sums import Sums
from hgsp_core.engine.trail import Trail
from hgsp_core.errors import NumericError
from hgsp_core.model.layout import LayerLayout

if TYPE_CHECKING:
    from hgsp_core.engine.weights import Weights

#: calls the layer with its input stream (usually a Call) and returns its output stream
Run = Callable[[nn.Module, Tensor], Tensor]
#: axis or linear -> the recorded tensor
Noted = dict[str, Tensor]


def forward(
    weights: Weights,
    batches: Batches,
    streams: Sequence[Tensor],
    collectors: Sequence[Collector],
    findings: Findings,
    trail: Trail | None,
    step: Callable[[], None],
    by_weights: bool = False,
) -> list[Tensor]:
    """Run the streams through every layer and call the collectors; without batches, they see only weights.

    Args:
        streams: what enters the first layer, per micro-batch [batch, seq_len, hidden].
        trail: filled for the backward half, if there is one.
        step: called after each layer.
        by_weights: whether that half needs gradients of weights, or only of what the blocks add to the stream.

    Returns:
        the streams after the last layer.

    Raises:
        NumericError: a weight, activation or statistic is not finite.
    """
    streams = list(streams)
    keeps_graphs = trail is not None and trail.keeps_graphs
    for index, module in weights.layers(range(len(weights.layout.layers))):
        layer = Layer.of(weights.layout.layers[index], module, batches.tokens, batches.predicted)
        sums = {collector: Sums() for collector in collectors}
        with ExitStack() as stack:
            if keeps_graphs:
                stack.enter_context(differentiable(layer.layout, module) if by_weights else frozen(module))
            stack.enter_context(torch.set_grad_enabled(keeps_graphs))
            watches = collectors or (keeps_graphs and not by_weights)
            run = stack.enter_context(watched(layer.layout, module)) if watches else unwatched(module)
            for b, batch in enumerate(batches):
                x = streams[b].requires_grad_(keeps_graphs)
                passage = run(batch.calls[index], x)
                if trail is not None:
                    trail.put(index, b, passage)
                passage = passage.detached()
                for collector in collectors:
                    collector.observe(layer, passage, sums[collector])
                streams[b] = passage.after
        check_streams(layer, streams)
        for collector in collectors:
            findings.add(collector, layer, sums[collector])
        step()
    return streams


@contextmanager
def watched(layout: LayerLayout, module: nn.Module) -> Iterator[Callable[[Run, Tensor], Passage]]:
    """A function that runs the layer on a micro-batch [batch, seq_len, hidden] and returns what passed through it."""
    with _noted(layout, module) as noted:

        def run(call: Run, x: Tensor) -> Passage:
            after = call(module, x)
            return Passage(x, after, *noted())

        yield run


@contextmanager
def watched_until(layout: LayerLayout, module: nn.Module, linear: str) -> Iterator[Callable[[Run, Tensor], Beginning]]:
    """As `watched`, for runs that end at a linear, named relative to the layer: its input is recorded last."""
    with _noted(layout, module, linear) as noted:

        def run(call: Run, x: Tensor) -> Beginning:
            with suppress(_Reached):
                call(module, x)
            added, _, inputs, _ = noted()
            return Beginning(x, added, inputs)

        yield run


@contextmanager
def _noted(
    layout: LayerLayout, module: nn.Module, until: str = ""
) -> Iterator[Callable[[], tuple[Noted, Noted, Noted, dict[str, Routed]]]]:
    """A function that hands over what was seen since the last call: what blocks added and wrote, linears read, experts got."""
    added: Noted = {}
    written: Noted = {}
    inputs: Noted = {}
    routed: dict[str, Routed] = {}

    def keep(found: Noted, axis: str) -> Callable[[nn.Module, Sequence[Tensor], Output], None]:
        def hook(block: nn.Module, arguments: Sequence[Tensor], output: Output) -> None:
            found[axis] = output[0] if isinstance(output, tuple) else output

        return hook

    def keep_input(linear: str) -> Callable[[nn.Module, Sequence[Tensor]], None]:
        def hook(module: nn.Module, arguments: Sequence[Tensor]) -> None:
            inputs[linear] = arguments[0].detach()
            if linear == until:
                raise _Reached

        return hook

    def keep_routed(axis: str) -> Callable[[nn.Module, Sequence[Tensor]], None]:
        def hook(experts: nn.Module, arguments: Sequence[Tensor]) -> None:
            x, chosen, weights = arguments
            routed[axis] = Routed(experts, x.detach(), chosen, weights.detach())

        return hook

    def hand_over() -> tuple[Noted, Noted, Noted, dict[str, Routed]]:
        every: Noted = {}
        for axis, y in written.items():  # in the order in which the blocks ran
            block = layout.blocks[axis]
            if not block.axis.after:
                every[axis] = y if block.gain == 1 else y * block.gain
            elif axis in added:  # not yet where the run ended inside the block
                every[axis] = added[axis]
        found = every, dict(written), dict(inputs), dict(routed)
        for seen in (added, written, inputs, routed):
            seen.clear()
        return found

    with ExitStack() as hooks:
        for axis, block in layout.blocks.items():
            for place, found in ((block.axis.block, written), (block.axis.after, added)):
                if place:
                    hooks.enter_context(module.get_submodule(place).register_forward_hook(keep(found, axis)))
            for experts in dict.fromkeys(s.local.rpartition(".")[0] for s in block.slices if block.routed and s.bare):
                hooks.enter_context(module.get_submodule(experts).register_forward_pre_hook(keep_routed(axis)))
            for linear in dict.fromkeys(s.local for s in block.linears):
                hooks.enter_context(module.get_submodule(linear).register_forward_pre_hook(keep_input(linear)))
        yield hand_over


class _Reached(Exception):
    """Ends a run at its last linear."""


def unwatched(module: nn.Module) -> Callable[[Run, Tensor], Passage]:
    """A function that runs the layer on a micro-batch and sees only what leaves it."""
    return lambda call, x: Passage(x, call(module, x), {}, {}, {})


def check_streams(layer: Layer, streams: Sequence[Tensor]) -> None:
    """Raise NumericError if a stream that left the layer is not finite."""
    if not streams or is_finite(*streams):
        return
    check_weights(layer)
    raise NumericError.activation(layer.layout.index, "its output", str(streams[0].dtype).removeprefix("torch."))
