"""The backward half that goes through activations only: gradients by what each writer gives, and no weight's.

They are of -log p of a token that is drawn from the model's own prediction at every position. Their second moment is the
Fisher information, the curvature of KL(model ‖ changed model); of the text's own tokens it would not be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from hgsp_core.engine.backward import head_slopes
from hgsp_core.engine.batches import Batches
from hgsp_core.engine.collectors import Collector
from hgsp_core.engine.forward import watched
from hgsp_core.engine.layer import Layer, frozen
from hgsp_core.engine.sums import Sums
from hgsp_core.engine.trail import Trail

if TYPE_CHECKING:
    from hgsp_core.engine.weights import Weights

#: seed of the numbers that draw tokens: a text gives the same tokens, whatever the number of processes
SEED = 0


def numbers(shape: tuple[int, int]) -> np.ndarray:
    """[samples, seq_len] fp32 in [0, 1): the numbers that draw a token at each position of the calibration set."""
    return np.random.default_rng(SEED).random(shape, np.float32)


def drawn_slopes(
    weights: Weights, batches: Batches, streams: Sequence[Tensor], drawing: np.ndarray
) -> tuple[float, list[Tensor]]:
    """As `loss_slopes`, for tokens drawn from the model. drawing [samples, seq_len]: this process's part of `numbers`."""
    parts = torch.from_numpy(drawing).to(weights.device).split([len(batch.ids) for batch in batches])
    return head_slopes(weights, batches, streams, parts)


def by_activations(
    layer: Layer,
    module: nn.Module,
    batches: Batches,
    trail: Trail,
    scale: float,
    slopes: list[Tensor],
    sums: Mapping[Collector, Sums],
) -> Layer:
    """A `Through` of `backward` that takes no gradient of a weight."""
    index = layer.layout.index
    with frozen(module), watched(layer.layout, module) as run:
        for b, batch in enumerate(batches):
            with torch.enable_grad():
                passage = trail.take(index, b, partial(run, batch.calls[index]))
            *found, slopes[b] = torch.autograd.grad(
                passage.after, [*passage.written.values(), passage.before], slopes[b]
            )
            of_blocks = {axis: g.float() / scale for axis, g in zip(passage.written, found, strict=True)}
            passage = passage.detached()
            for collector, own in sums.items():
                collector.observe_slopes(layer, passage, of_blocks, own)
    return layer
