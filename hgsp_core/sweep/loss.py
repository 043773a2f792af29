"""The causal-LM loss over final norm and head, by chunks of tokens: the logits of the whole set never exist at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

#: size of one chunk's logits in fp32, in bytes
CHUNK_BYTES = 2**26


def loss_sum(norm: nn.Module, head: nn.Module, stream: Tensor, ids: Tensor) -> Tensor:
    """Σ -log p over the predicted tokens of a micro-batch, fp64.

    Args:
        stream: [batch, seq_len, hidden], the residual stream after the last layer.
        ids: [batch, seq_len]; the first token of each sample is not predicted.
    """
    with torch.no_grad():
        return sum(_chunk_loss(norm, head, x, targets).double() for x, targets in _chunks(head, stream, ids))


def loss_gradient(norm: nn.Module, head: nn.Module, stream: Tensor, ids: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Σ -log p as `loss_sum`, and `scale` times its gradient by the stream [batch, seq_len, hidden]."""
    total, gradients = 0, []
    for x, targets in _chunks(head, stream, ids):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            loss = _chunk_loss(norm, head, x, targets)
            gradients += torch.autograd.grad(loss * scale, x)
        total = total + loss.detach().double()
    gradient = torch.zeros_like(stream)  # the last position of a sample predicts nothing
    gradient[:, :-1] = torch.cat(gradients).view_as(stream[:, :-1])
    return total, gradient


def _chunk_loss(norm: nn.Module, head: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(head(norm(x)).float(), targets, reduction="sum")


def _chunks(head: nn.Module, stream: Tensor, ids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(x [positions, hidden], the tokens they predict [positions])."""
    length = max(1, CHUNK_BYTES // (4 * head.weight.shape[0]))
    return zip(stream[:, :-1].flatten(0, 1).split(length), ids[:, 1:].flatten().split(length))
