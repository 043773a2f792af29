"""A decoder layer run with other weights than its own; its own stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from hgsp_core.engine.calls import Call, Output
from hgsp_core.model.layout import LayerLayout


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

    return call(layer, x)
