"""How a model calls its decoder layers, recorded from the model itself.

Masks, position embeddings and sliding windows differ between families and layers. The model's own forward is run for
each micro-batch with recorders in place of the layers, so no architecture needs code for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: of a layer or a block: the tensor itself, or a tuple that begins with it
Output = Tensor | tuple[Any, ...]


@dataclass(frozen=True)
class Call:
    """The arguments of a layer besides the residual stream."""

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]

    def __call__(self, layer: Callable[..., Output], x: Tensor) -> Tensor:
        """The residual stream after the layer, [batch, seq_len, hidden]."""
        output = layer(x, *self.arguments, **self.keywords)
        return output[0] if isinstance(output, tuple) else output


class _AllRecorded(Exception):
    """Ends the model's forward at its last layer: the rest is not needed."""


def record_calls(model: nn.Module, layers: Sequence[nn.Module], ids: Tensor) -> tuple[Tensor, list[Call]]:
    """Embed a micro-batch and record how each layer would be called; no layer runs.

    Args:
        ids: [batch, seq_len] token ids on the model's device.

    Returns:
        the residual stream that enters the first layer [batch, seq_len, hidden], and one Call a layer.
    """
    streams: list[Tensor] = []
    calls: list[Call] = []

    def recorder(*arguments: Any, **keywords: Any) -> Tensor:
        x: Tensor = keywords.pop("hidden_states") if "hidden_states" in keywords else arguments[0]
        streams.append(x)
        calls.append(Call(arguments[1:], keywords))
        if len(calls) == len(layers):
            raise _AllRecorded
        return x

    with forwards_replaced(layers, recorder), torch.no_grad(), suppress(_AllRecorded):
        model(input_ids=ids, use_cache=False)
    return streams[0], calls


@contextmanager
def forwards_replaced(modules: Sequence[nn.Module], forward: Callable[..., Output]) -> Iterator[None]:
    """Within the context, `forward` replaces that of the modules."""
    own = [vars(module).get("forward") for module in modules]
    for module in modules:
        module.forward = forward
    try:
        yield
    finally:
        for module, before in zip(modules, own, strict=True):
            del module.forward
            if before is not None:
                module.forward = before
