"""H-GSP: one ranking of all units, whose scores are gated by the importance of their layer or block."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from hgsp_core.allocate.budget import Queue
from hgsp_core.allocate.contract import AllocateJob
from hgsp_core.allocate.limits import finite_layer_priors
from hgsp_core.allocate.ranking import Bounds, GlobalParams, Ranking, knapsack
from hgsp_core.artifacts import Priors, Scores


class HGSPParams(GlobalParams):
    """Parameters of the gate, the knapsack and the collapse."""

    temperature: float = Field(
        1.0, ge=0, le=10, description="exponent T of the gate, 0..10; 0 = global importance without priors"
    )
    tau: Literal["auto"] | Annotated[float, Field(ge=0)] = Field(
        "auto",
        description="layer prior, 0 or above, below which the layer's prior gates its units; above it, the block's prior does; "
        "auto = 25th percentile of the layers, 0 = always the block, .inf = always the layer",
    )
    epsilon: float = Field(
        0.15, ge=0, le=1, description="removes a layer entirely below this kept share, 0..1; 0 = never"
    )


class HGSP(Ranking[HGSPParams]):
    """Removes the units with the lowest gated scores over all layers, and layers that would keep little.

    Formula: score · B^T, where T is `temperature` and B = ln(1 + prior). The prior is that of the layer if it is
        below `tau`, else that of the unit's block.
    Source: this project.
    Cost: none; with T above 0, that of the prior.
    When: with scores that are not comparable between layers, such as `taylor`.
    Notes: T = 0 and `epsilon: 0` is `global`. A layer whose kept share is below `epsilon` is removed
        entirely, and the best-scored units of the other layers are kept in exchange.

        Limits: those of `global`. With `uniform: true`, `epsilon: 0` keeps every layer.
    """

    def __init__(self, params: HGSPParams):
        super().__init__(params)
        self.needs_priors = self.needs_priors or params.temperature != 0
        self.whole_layers = params.epsilon > 0

    def scores(self, job: AllocateJob) -> Scores:
        if not self.params.temperature:
            return job.scores
        assert job.priors is not None  # `needs_priors` asked for them
        return gated(job.scores, job.priors, self.params.temperature, self.params.tau)

    def take(self, queue: Queue, bounds: Bounds) -> tuple[np.ndarray, list[str]]:
        return collapsed(queue, bounds, self.params.epsilon)


def gated(scores: Scores, priors: Priors, temperature: float, tau: float | str) -> Scores:
    """S ← S · Bᵀ, with B = ln(1 + prior).

    The prior is that of the unit's layer l where prior_l < τ (layer-dominant), else that of its block, or of the layer
    where the block's was not measured. Negative priors (the loss falls without the layer) count as 0. If scores are
    negative (after a normalizer), all are first shifted up to 0; otherwise a large B would remove those units first.
    """
    layer = np.maximum(finite_layer_priors(priors), 0)  # [layers]
    unmeasured = np.full_like(layer, np.nan)
    block = np.stack([priors.blocks.get(axis, unmeasured) for axis in scores.axes], axis=1)  # [layers, axes]
    block = np.maximum(np.where(np.isnan(block), layer[:, None], block), 0)
    if tau == "auto":
        tau = np.percentile(layer, 25)
    b = np.log1p(np.where((layer < tau)[:, None], layer[:, None], block))  # [layers, axes]
    s = scores.score - min(scores.score.min(), 0)
    return scores.with_score(s * b[scores.layer, scores.axis] ** temperature)


def collapsed(queue: Queue, bounds: Bounds, epsilon: float) -> tuple[np.ndarray, list[str]]:
    """Knapsack and collapse: units removed [blocks], and notes on the layers that could not be removed entirely.

    A layer whose kept share is below ε is removed entirely, the smallest share first. The knapsack then runs again over the
    other layers with the rest of the budget, so that their best-scored removed units are kept. This repeats until no further
    layer collapses.
    """
    whole = np.zeros_like(queue.units)  # units of the layers that are removed entirely [blocks]
    refused: dict[int, str] = {}  # layer -> why it cannot be removed entirely
    while True:
        gone = knapsack(queue, bounds, whole)
        stays = np.bincount(queue.layer, weights=queue.kept_share(gone)) / np.bincount(queue.layer)  # [layers]
        new = False
        for layer in np.argsort(stays, kind="stable").tolist():
            blocks = queue.layer == layer
            if stays[layer] >= epsilon or layer in refused or whole[blocks].any():
                continue
            wider = np.where(blocks, queue.units, whole)
            if queue.floor[blocks].any():
                refused[layer] = "a limit, or the model's best-scored unit, keeps it"
            elif not bounds.allow(queue, wider):
                refused[layer] = "the budget or a limit does not allow removing the rest"
            else:
                whole, new = wider, True
        if not new:
            break
    return gone, [
        f"Layer {layer} keeps {stays[layer]:.1%}, below epsilon {epsilon:g}, but is not removed entirely: {reason}."
        for layer, reason in sorted(refused.items())
        if 0 < stays[layer] < epsilon
    ]
