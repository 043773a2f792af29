"""A decoder layer run with other weights than its own; its own stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from hgsp_core.engine.calls import Call, Output
from hgsp_core.model.layout import LayerLayout

#: attribute of transformers' routers and experts
_COUNT = "num_experts"


def own_weights(layout: LayerLayout, module: nn.Module) -> dict[str, nn.Parameter]:
    """Full tensor name -> the layer's own parameter."""
    return {f"{layout.module}.{name}": parameter for name, parameter in module.named_parameters()}


def run_layer(layout: LayerLayout, module: nn.Module, call: Call, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """What leaves the layer, [batch, seq_len, hidden], for what enters it.

    Args:
        weights: full tensor name -> tensor, of all of the layer's parameters.
    """
    local = {layout.local(name): tensor for name, tensor in weights.items()}

    def layer(*arguments: Any, **keywords: Any) -> Output:
        return functional_call(module, local, arguments, keywords)

    with experts_counted(layout, module, weights):
        return call(layer, x)


@contextmanager
def experts_counted(layout: LayerLayout, module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the context the modules of experts know that there are as many as in these weights, by full name."""
    changed: list[tuple[nn.Module, int]] = []
    for block in layout.blocks.values():
        if block.routed:
            experts = len(weights[block.slices[0].weight])
            for part in module.get_submodule(block.axis.block).modules():
                if vars(part).get(_COUNT, experts) != experts:
                    changed.append((part, vars(part)[_COUNT]))
                    setattr(part, _COUNT, experts)
    try:
        yield
    finally:
        for part, experts in changed:
            setattr(part, _COUNT, experts)
