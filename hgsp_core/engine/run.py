"""The pass over the layers: exact statistics of the calibration set, one decoder layer at a time (docs/architecture.md).

statistics = run_sweep(Resident(model, layout), layout, tokens, [TaylorAbs(), ResidualCosine()])
statistics[TaylorAbs()][3]["mlp"]  # layer 3, [channels]
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from hgsp_core.artifacts import Statistics
from hgsp_core.engine.backward import backward, by_weights, loss_slopes
from hgsp_core.engine.batches import NO_BATCHES, embed
from hgsp_core.engine.collectors import Collector, Depth, RemovalLoss
from hgsp_core.engine.errors import EngineError
from hgsp_core.engine.findings import Findings
from hgsp_core.engine.forward import forward
from hgsp_core.engine.layer import Layer, Passage
from hgsp_core.engine.memory import choose_trail, free_bytes
from hgsp_core.engine.parallel import share
from hgsp_core.engine.removal import removal_losses, visits
from hgsp_core.engine.slopes import by_activations, drawn_slopes, numbers
from hgsp_core.engine.sums import Sums
from hgsp_core.engine.weights import Masked, Resident, Streamed, Weights
from hgsp_core.model.layout import Layout

__all__ = ["Collector", "Depth", "Layer", "Masked", "Passage", "Resident", "Streamed", "Sums", "Weights", "run_sweep"]

log = logging.getLogger("hgsp")


def run_sweep(
    weights: Weights,
    layout: Layout,
    tokens: np.ndarray | None,
    collectors: Iterable[Collector],
    batch_size: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
    memory: str = "auto",
    say: Callable[[str], None] = log.info,
) -> Statistics:
    """Measure what all collectors need, in one pass that is as deep as they need.

    Args:
        tokens: [samples, seq_len] int64; may be None if all collectors see weights only.
        batch_size: samples of a micro-batch; affects cost, not results.
        progress: called with the number of layers visited, and to visit in all.
        memory: "auto", "graphs", "device", "cpu" or "disk": where activations are kept for the backward half (`memory.py`).
        say: called with what "auto" chose.

    Raises:
        NumericError: weights, activations, loss or statistics are not finite; names layer and tensor.
        EngineError: no samples, samples too short for a loss, or not enough memory.
    """
    collectors = list({collector.key: collector for collector in collectors}.values())
    shallow = [c for c in collectors if c.depth <= Depth.FORWARD]
    halves = [[c for c in collectors if c.depth == depth] for depth in (Depth.BACKWARD, Depth.CURVATURE)]
    halves = [half for half in halves if half]
    removals = [c for c in collectors if isinstance(c, RemovalLoss)]
    tokens = np.empty((0, 0), np.int64) if tokens is None else tokens
    findings = Findings(collectors, len(layout.layers), weights.of_all_units)

    with _memory_errors(weights):
        entering = {c: embed(weights, tokens[: c.samples], batch_size) for c in removals}
        batches, streams = NO_BATCHES, list[Tensor]()
        sizes = [c.gradient_batch for half in halves for c in half if c.gradient_batch]
        if halves or any(c.needs_tokens for c in shallow):
            batches, streams = embed(weights, tokens, batch_size, sizes)

        passes = max(bool(shallow), len(halves)) + len(halves)
        total = passes * len(layout.layers) + sum(visits(weights, streams) for _, streams in entering.values())
        done = iter(range(1, total + 1))

        def step() -> None:
            progress(next(done), total)

        if shallow and not halves:
            forward(weights, batches, streams, shallow, findings, None, step)
        for deep in halves:
            of_weights = deep[0].depth == Depth.BACKWARD
            trail = choose_trail(weights, batches, streams, memory, say)
            last = forward(weights, batches, streams, shallow, findings, trail, step, of_weights)
            shallow = []  # seen
            if of_weights:
                scale, slopes = loss_slopes(weights, batches, last)
            else:
                scale, slopes = drawn_slopes(weights, batches, last, share(numbers(tokens.shape), sizes))
            del last
            through = by_weights if of_weights else by_activations
            backward(weights, batches, trail, scale, slopes, deep, findings, step, through)
        for collector, (batches, streams) in entering.items():
            removal_losses(weights, batches, streams, collector, findings, step)
    return findings.statistics()


@contextmanager
def _memory_errors(weights: Weights) -> Iterator[None]:
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        raise EngineError.out_of_memory(f"{free_bytes(weights.device) / 2**30:.2f} GiB", error) from error
