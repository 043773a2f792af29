"""What a model makes of the residual stream after its last layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers.modeling_outputs import MoeModelOutputWithPast

from hgsp_core.engine.calls import forwards_replaced

if TYPE_CHECKING:
    from hgsp_core.engine.weights import Weights


@dataclass(frozen=True)
class Ending:
    """The final norm, the head, and what the family does with logits besides: by the model's own forward.

    modules     full name -> final norm and head, with their weights
    vocabulary  number of logits at each position
    """

    model: nn.Module
    decoder: nn.Module
    modules: dict[str, nn.Module]
    vocabulary: int

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [positions, vocabulary] of the stream x [positions, hidden]."""
        norm, _ = self.modules.values()

        def normed(**_: Any) -> Any:  # an output that has the fields of all families' outputs
            return MoeModelOutputWithPast(last_hidden_state=norm(x)[None])

        with forwards_replaced([self.decoder], normed):
            logits: Tensor = self.model(inputs_embeds=x[None], use_cache=False).logits
        return logits[0]


@contextmanager
def ending(weights: Weights) -> Iterator[Ending]:
    """The ending of a model, whose weights are in memory within the context."""
    architecture = weights.layout.architecture
    names = architecture.norm, architecture.head
    decoder = weights.model.get_submodule(architecture.layers.rpartition(".")[0])
    with weights.outside(*names) as modules:
        yield Ending(weights.model, decoder, dict(zip(names, modules, strict=True)), weights.layout.vocabulary)
