"""Prices of units in nats: how much the model's predictions change without them, from local curvature (K-FAC).

A change ΔW of a linear with input x and output y costs, to second order, in nats a predicted token

    KL ≈ ½ tr(ΔW A ΔWᵀ B) · tokens / predicted,   A = mean of x xᵀ,   B = mean of g gᵀ

with g the gradient of -log p with respect to y, p of a token drawn from the model (Martens & Grosse 2015: the Fisher information of
the linear as a Kronecker product). With B = L Lᵀ this is the squared error of Lᵀ W on the inputs. So Optimal Brain
Surgeon in this metric gives the order of removal and the total cost after each step, with the kept columns refitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hgsp_core.engine.collectors import Collector, Depth
from hgsp_core.engine.elimination import elimination
from hgsp_core.engine.layer import Layer, Passage
from hgsp_core.engine.obs import inverse_hessian, removal_errors
from hgsp_core.engine.sums import Sums
from hgsp_core.model.layout import BlockLayout

#: share of the remaining units that is removed before errors are computed again
BATCH = 1 / 16
#: relative difference between units of equal price, so that those removed first stay first
TILT = 1e-6


@dataclass(frozen=True)
class RemovalCurvature(Collector):
    """Axis -> price of each unit in nats; `AXIS.heads` -> price of each query head alone, together at most that of the unit.

    A block's units are removed by backward elimination in the metric of B. The lower convex hull of cumulative KL over
    cumulative parameters has slopes that never decrease, and a unit's price is its parameters times the slope at its
    removal. So a knapsack over all blocks, by price per parameter, removes each block's units in the order of elimination.
    An expert has the price of its outputs y, weighted by the router: ½ tr(mean of y yᵀ · B) · tokens / predicted, as if no
    other expert took its tokens.

    damping: λ of H = A + λI, as a share of the mean diagonal of A; None = inputs of the writer per token, at most 1. The
    original weights then count as much as one token per column; otherwise a fit to few tokens looks too good.
    """

    damping: float | None = None

    depth = Depth.CURVATURE

    def observe_slopes(self, layer: Layer, passage: Passage, slopes: Mapping[str, Tensor], sums: Sums) -> None:
        for axis, block in layer.layout.written.items():
            sums.add_gram(f"{axis} input", passage.inputs[block.writer.local].flatten(0, -2))
            sums.add_gram(f"{axis} slope", slopes[axis].flatten(0, -2))
        for axis, routed in passage.routed.items():
            sums.add_gram(f"{axis} slope", slopes[axis].flatten(0, -2))
            for expert in range(layer.layout.blocks[axis].units):
                sums.add_gram(f"{axis} {expert}", routed.x[:0])  # all processes add up the same names
            for expert, _, y in routed.outputs():
                sums.add_gram(f"{axis} {expert}", y)

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        found = {}
        for axis, block in layer.layout.written.items():
            weight = layer.weights[block.writer.weight].double()
            metric = root(sums[f"{axis} slope"].double()) * (2 * layer.tokens * layer.predicted) ** -0.5
            damping = min(1.0, weight.shape[1] / layer.tokens) if self.damping is None else self.damping
            inverse = inverse_hessian(sums[f"{axis} input"], damping)
            w = metric.T @ weight
            heads = removal_errors(w, inverse, block.writer.width // block.writer.heads).view(block.units, -1)
            found[axis] = unit_prices(block, w, inverse)
            if block.heads > 1:
                single = heads.cpu().numpy()
                found[f"{axis}.heads"] = (
                    single * np.minimum(1, found[axis] / np.maximum(single.sum(1), np.finfo(float).tiny))[:, None]
                )
        for axis, block in layer.layout.blocks.items():
            if block.routed:
                found[axis] = expert_prices(sums, axis, block.units) / (2 * layer.tokens * layer.predicted)
        return found


def expert_prices(sums: Sums, axis: str, experts: int) -> np.ndarray:
    """[experts]: Σ yᵀ (Σ g gᵀ) y over the outputs y of each, g the gradient by what the block gives."""
    metric = sums[f"{axis} slope"].double()
    return torch.stack([(sums[f"{axis} {e}"].double() * metric).sum() for e in range(experts)]).cpu().numpy()


def root(b: Tensor) -> Tensor:
    """L [n, n] with L Lᵀ = b, of a symmetric b [n, n] without negative eigenvalues but for rounding."""
    factor, failed = torch.linalg.cholesky_ex(b)
    if not failed:
        return factor
    # of fewer tokens than features; this costs ten times as much
    values, vectors = torch.linalg.eigh(b)
    return vectors * values.clamp_min(0).sqrt()


def unit_prices(block: BlockLayout, w: Tensor, inverse: Tensor) -> np.ndarray:
    """[units]: the prices. w [rank, in] is the writer in the metric of B, `inverse` [in, in] is H⁻¹; both are overwritten."""
    steps, cost, errors = list[Tensor](), [0], list[Tensor]()
    for gone, error in elimination(w, inverse, block.writer.width, 0, lambda left: max(1, int(BATCH * left))):
        steps.append(gone)
        cost.append(cost[-1] + len(gone) * block.unit_cost)
        errors.append(error)
    order = torch.cat(steps).cpu().numpy()
    kl = np.concatenate([[0.0], torch.stack(errors).cumsum(0).cpu().numpy()])
    x, y = map(np.array, zip(*hull(list(zip(cost, kl, strict=True))), strict=True))
    slopes = np.diff(y) / np.diff(x)
    spent = (np.arange(len(order)) + 0.5) * block.unit_cost
    price = np.empty(len(order))
    price[order] = slopes[np.searchsorted(x, spent) - 1] * (1 + TILT * np.arange(len(order)) / len(order))
    return price * block.unit_cost


def hull(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The lower convex hull of (cost, KL), ascending in cost: slopes never decrease from one segment to the next."""
    kept: list[tuple[int, float]] = []
    for x, y in points:
        while len(kept) > 1:
            (x0, y0), (x1, y1) = kept[-2:]
            if (y1 - y0) * (x - x1) < (y - y1) * (x1 - x0):
                break
            kept.pop()
        kept.append((x, y))
    return kept
