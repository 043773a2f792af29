"""The causal-LM loss of the residual stream after the last layer, by chunks of tokens: the logits of the whole set never exist at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hgsp_core.engine.ending import Ending

#: size of one chunk's logits in fp32, in bytes
CHUNK_BYTES = 2**26


def loss_sum(end: Ending, stream: Tensor, ids: Tensor, context: Tensor | None = None) -> Tensor:
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
        for part, wanted in _chunks(end, x, targets):
            total += cross_entropy(end(part).float(), wanted, reduction="sum")
    return total


def loss_gradient(end: Ending, stream: Tensor, wanted: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Σ -log p as `loss_sum`, and `scale` times its gradient by the stream [batch, seq_len, hidden].

    Args:
        wanted: [batch, seq_len], the ids; or numbers in [0, 1), each of which draws a token from what is predicted there.
    """
    total, gradients = torch.zeros((), dtype=torch.float64, device=stream.device), list[Tensor]()
    for x, targets in _chunks(end, stream[:, :-1].flatten(0, 1), wanted[:, 1:].flatten()):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = end(x).float()
        p = logits.detach().softmax(-1)
        if targets.is_floating_point():
            targets = _drawn(p, targets)
        targets = targets.unsqueeze(1)
        largest, place = logits.detach().max(-1, keepdim=True)
        likelihood = logits.detach().gather(1, targets) - largest + p.gather(1, place).log()
        total -= likelihood.sum(dtype=torch.float64)
        p.scatter_add_(1, targets, p.new_full(targets.shape, -1))  # now the gradient by the logits
        gradients += torch.autograd.grad(logits, x, p.mul_(scale))
    gradient = torch.zeros_like(stream)  # the last position of a sample predicts nothing
    gradient[:, :-1] = torch.cat(gradients).view_as(stream[:, :-1])
    return total, gradient


def _drawn(p: Tensor, numbers: Tensor) -> Tensor:
    """The tokens [positions] at which the distribution functions of p [positions, vocabulary] pass the numbers."""
    below = p.cumsum(-1)
    wanted = numbers[:, None] * below[:, -1:]
    return torch.searchsorted(below, wanted, right=True).squeeze(1).clamp_max_(p.shape[-1] - 1)


def _chunks(end: Ending, x: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """x [positions, hidden] and the tokens they predict [positions], in parts."""
    length = max(1, CHUNK_BYTES // (4 * end.vocabulary))
    return zip(x.split(length), targets.split(length), strict=True)
