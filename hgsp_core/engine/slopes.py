"""The backward half that goes through activations only: gradients by what each writer gives, and no weight's.

They are of -log p of a token that is drawn from the model's own prediction at every position. Their second moment is the
Fisher information, the curvature of KL(model ‖ changed model); of the text's own tokens it would not be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hgsp_core.engine.backward import head_slopes, rescale
from hgsp_core.engine.batches import Batches
from hgsp_core.engine.collectors import Collector
from hgsp_core.engine.findings import Findings
from hgsp_core.engine.forward import watched
from hgsp_core.engine.layer import Layer, Passage, frozen
from hgsp_core.engine.sums import Sums
from hgsp_core.engine.trail import Trail

if TYPE_CHECKING:
    from hgsp_core.engine.weights import Weights

#: of the numbers that draw tokens from the model: the same text gives the same tokens, in any number of processes
SEED = 0


def numbers(shape: tuple[int, int]) -> np.ndarray:
    """[samples, seq_len] fp32 in [0, 1): what draws a token at each position of the whole calibration set."""
    return np.random.default_rng(SEED).random(shape, np.float32)


def drawn_slopes(
    source: Weights, batches: Batches, streams: Sequence[Tensor], drawing: np.ndarray
) -> tuple[float, list[Tensor]]:
    """As `loss_slopes`, for tokens drawn from the model. drawing [samples, seq_len]: this process's part of `numbers`."""
    parts = torch.from_numpy(drawing).to(source.device).split([len(batch.ids) for batch in batches])
    return head_slopes(source, batches, streams, parts)


def slopes_backward(
    source: Weights,
    batches: Batches,
    trail: Trail,
    scale: float,
    slopes: list[Tensor],
    collectors: Sequence[Collector],
    findings: Findings,
    step: Callable[[], None],
) -> None:
    """Bring the slopes back through every layer and collect on the way; the arguments are those of `backward`."""
    slopes = list(slopes)
    for index, module in source.layers(reversed(range(len(source.layout.layers)))):
        layer = Layer.of(source.layout.layers[index], module, batches.tokens, batches.predicted)
        scale *= rescale(slopes)
        sums = {collector: Sums() for collector in collectors}
        with frozen(module), watched(layer.layout, module) as run:
            for b, batch in enumerate(batches):
                call = batch.calls[index]

                def passed(x: Tensor) -> Passage:
                    return run(call, x)  # noqa: B023 - called at once

                with torch.enable_grad():
                    passage = trail.take(index, b, passed)
                *found, slopes[b] = torch.autograd.grad(
                    passage.after, [*passage.written.values(), passage.before], slopes[b]
                )
                of_blocks = {axis: g.float() / scale for axis, g in zip(passage.written, found, strict=True)}
                passage = passage.detached()
                for collector in collectors:
                    collector.observe_slopes(layer, passage, of_blocks, sums[collector])
        for collector in collectors:
            findings.add(collector, layer, sums[collector])
        step()
