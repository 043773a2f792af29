"""The loss of distillation, and the held-out loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from hgsp_core.engine.parallel import add_up, processes, rank
from hgsp_core.recover.rows import IGNORED, Row, batch


def divergence(logits: Tensor, dense: Tensor, labels: Tensor) -> Tensor:
    """Σ over learned tokens of KL(p_dense ‖ p) = Σ_v p_dense(v) · (ln p_dense(v) − ln p(v)), in fp32.

    Logits alone, without the text's own loss, is what Minitron (Muralidharan et al. 2024, arXiv 2407.14679, 4.3) found
    best for recovering pruned models.

    Args:
        logits, dense: [rows, tokens, vocabulary] of the model that learns and of the one it learns from.
        labels: [rows, tokens]; the logits before a token predict it.
    """
    learned = labels[:, 1:] != IGNORED  # [rows, tokens - 1]
    # [learned, vocabulary]
    ours, theirs = (log_softmax(part[:, :-1][learned].float(), dim=-1) for part in (logits, dense))
    return kl_div(ours, theirs, reduction="sum", log_target=True)


@torch.no_grad()
def held_out_loss(model: nn.Module, rows: Sequence[Row], batch_size: int) -> float:
    """Mean −ln p over the learned tokens of rows, of fp32 logits; exp of it is the perplexity.

    Several processes share the rows, and all of them get the result.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # of −ln p, of tokens
    mine = rows[rank() :: processes()]
    for start in range(0, len(mine), batch_size):
        inputs = {name: tensor.to(device) for name, tensor in batch(mine[start : start + batch_size]).items()}
        labels = inputs.pop("labels")[:, 1:].flatten()  # [rows * (tokens - 1)]
        logits = model(**inputs, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        sums[0] += cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        sums[1] += (labels != IGNORED).sum()
    add_up([sums])
    model.train(training)
    return (sums[0] / sums[1]).item()
