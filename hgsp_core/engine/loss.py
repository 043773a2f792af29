"""The causal-LM loss over final norm and head, by chunks of tokens: the logits of the whole set never exist at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, kl_div, log_softmax

#: size of one chunk's logits in fp32, in bytes
CHUNK_BYTES = 2**26


def loss_sum(norm: nn.Module, head: nn.Module, stream: Tensor, ids: Tensor, context: Tensor | None = None) -> Tensor:
    """Σ -log p over the predicted tokens of a micro-batch, fp64.

    Args:
        stream: [batch, seq_len, hidden], the residual stream after the last layer.
        ids: [batch, seq_len]; the first token of each sample is not predicted.
        context: [batch], so many tokens at the start of each sample are read and not predicted; None = that first one.
    """
    x, targets = stream[:, :-1], ids[:, 1:]  # [batch, seq_len - 1, hidden], [batch, seq_len - 1]
    if context is None:
        x, targets = x.flatten(0, 1), targets.flatten()
    else:
        predicted = torch.arange(1, ids.shape[1], device=ids.device) >= context[:, None]
        x, targets = x[predicted], targets[predicted]
    total = torch.zeros((), dtype=torch.float64, device=ids.device)
    with torch.no_grad():
        for part, wanted in _chunks(head, x, targets):
            total += _chunk_loss(norm, head, part, wanted)
    return total


def loss_gradient(
    norm: nn.Module, head: nn.Module, stream: Tensor, wanted: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Σ -log p as `loss_sum`, and `scale` times its gradient by the stream [batch, seq_len, hidden].

    Args:
        wanted: [batch, seq_len], the ids; or numbers in [0, 1), each of which draws a token from what is predicted there.
    """
    total, gradients = torch.zeros((), dtype=torch.float64, device=stream.device), list[Tensor]()
    for x, targets in _chunks(head, stream[:, :-1].flatten(0, 1), wanted[:, 1:].flatten()):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            loss = _chunk_loss(norm, head, x, targets)
            gradients += torch.autograd.grad(loss * scale, x)
        total = total + loss.detach().double()
    gradient = torch.zeros_like(stream)  # the last position of a sample predicts nothing
    gradient[:, :-1] = torch.cat(gradients).view_as(stream[:, :-1])
    return total, gradient


def divergence(
    norm: nn.Module,
    head: nn.Module,
    dense: Tensor,
    stream: Tensor,
    weight: Tensor | None = None,
    log_p: Tensor | None = None,
) -> Tensor:
    """[batch], fp64: the mean of KL(p ‖ q) over the positions that predict a token; p and q are what two streams predict.

    Args:
        dense, stream: [batch, seq_len, hidden], after the last layer; p is of `dense`, q of `stream`.
        weight: the head's for `stream`; None = its own.
        log_p: what `predicted` makes of `dense`, where there is room for it.
    """
    found, other = [], {} if weight is None else {"weight": weight}
    source = dense[:, :-1].flatten(0, 1) if log_p is None else log_p
    with torch.no_grad():
        for a, b in _chunks(head, source, stream[:, :-1].flatten(0, 1)):
            p = _log_softmax(head(norm(a))) if log_p is None else a
            q = _log_softmax(functional_call(head, other, (norm(b),)))
            found.append(kl_div(q, p, log_target=True, reduction="none").sum(-1).double())
    return torch.cat(found).view(len(stream), -1).mean(1)


def predicted(norm: nn.Module, head: nn.Module, stream: Tensor) -> Tensor:
    """log p [batch · (seq_len - 1), vocabulary] fp32, of a stream [batch, seq_len, hidden] after the last layer."""
    x = stream[:, :-1].flatten(0, 1)
    with torch.no_grad():
        return torch.cat([_log_softmax(head(norm(part))) for part, _ in _chunks(head, x, x)])


def _log_softmax(logits: Tensor) -> Tensor:
    return log_softmax(logits.float(), -1)


def _chunk_loss(norm: nn.Module, head: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    logits = head(norm(x)).float()
    if targets.is_floating_point():
        targets = _drawn(logits.detach(), targets)
    return cross_entropy(logits, targets, reduction="sum")


def _drawn(logits: Tensor, numbers: Tensor) -> Tensor:
    """The tokens [positions] at which the distribution functions of logits [positions, vocabulary] pass the numbers."""
    below = logits.softmax(-1).cumsum(-1)
    wanted = numbers[:, None] * below[:, -1:]
    return torch.searchsorted(below, wanted, right=True).squeeze(1).clamp_max_(logits.shape[-1] - 1)


def _chunks(head: nn.Module, x: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """x [positions, hidden] and the tokens they predict [positions], in parts."""
    length = max(1, CHUNK_BYTES // (4 * head.get_parameter("weight").shape[0]))
    return zip(x.split(length), targets.split(length), strict=True)
