"""The sweep: exact statistics of a whole calibration set, one decoder layer at a time (see docs/architecture.md).

    statistics = run_sweep(Resident(model, layout), layout, tokens, [TaylorAbs(), ResidualCosine()])
    statistics[TaylorAbs()][3]["mlp"]  # layer 3, [channels]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from hgsp_core.artifacts import Statistics
from hgsp_core.layout import Layout
from hgsp_core.sweep.backward import backward, loss_slopes
from hgsp_core.sweep.batches import Boundaries, embed
from hgsp_core.sweep.collectors import Collector, Depth, Sums
from hgsp_core.sweep.findings import Findings
from hgsp_core.sweep.forward import forward
from hgsp_core.sweep.layer import Layer, Passage
from hgsp_core.sweep.weights import Resident

__all__ = ["Collector", "Depth", "Layer", "Passage", "Resident", "Sums", "run_sweep"]


def run_sweep(
    source: Resident,
    layout: Layout,
    tokens: np.ndarray | None,
    collectors: Iterable[Collector],
    batch_size: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Statistics:
    """Run the union of the collectors, no deeper than they need.

    Args:
        tokens: [samples, seq_len] int64; not looked at, and may be None, where all collectors see weights only.
        batch_size: samples of a micro-batch; changes cost, not results.
        progress: called with the layers visited and to visit.
    Raises:
        NumericError: weights, activations, loss or statistics are not finite; names layer and tensor.
        SweepError: no samples, or samples too short for a loss.
    """
    collectors = list({collector.key: collector for collector in collectors}.values())
    depth = max((collector.depth for collector in collectors), default=Depth.WEIGHTS)
    shallow = [collector for collector in collectors if collector.depth < Depth.BACKWARD]
    deep = [collector for collector in collectors if collector.depth == Depth.BACKWARD]
    findings = Findings(collectors, len(layout.layers))
    total = len(layout.layers) * (2 if deep else 1)
    done = iter(range(1, total + 1))

    def step():
        progress(next(done), total)

    batches, streams = embed(source, tokens, batch_size) if depth > Depth.WEIGHTS else ([], [])
    boundaries = Boundaries() if deep else None
    streams = forward(source, batches, streams, shallow, findings, boundaries, step)
    if deep:
        _, slopes = loss_slopes(source, batches, streams)
        backward(source, batches, boundaries, slopes, deep, findings, step)
    return findings.statistics()
