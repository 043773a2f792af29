"""Depth pruning: entire layers, by their priors."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from hgsp_core.allocate.budget import RatioParams, shortfall
from hgsp_core.allocate.contract import AllocateJob, Allocator
from hgsp_core.allocate.limits import LayerLimits, finite_layer_priors, in_force, prunable_layers
from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.errors import PlanError


class DepthParams(RatioParams):
    """Parameters of depth pruning."""

    n_remove_layers: int | None = Field(
        None, ge=1, description="number of layers to remove, instead of the ratio; null = as many as the ratio allows"
    )
    limits: LayerLimits = Field(LayerLimits(), description="limits on which layers are removed")


class Depth(Allocator[DepthParams]):
    """Removes entire layers in ascending order of prior.

    Formula: a layer is removed if it still fits the budget; equal priors go in order of depth.
    Source: ShortGPT (Men et al. 2024, arXiv 2403.03853), where the prior is `similarity`.
    Cost: that of the prior.
    When: latency matters and the ratio is small.
    """

    needs_priors = True

    def __call__(self, job: AllocateJob) -> Plan:
        p, layout = self.params, job.layout
        cost = np.array([layer.cost for layer in layout.layers])
        prunable = prunable_layers(p.limits, layout, job.priors)
        least_first = np.argsort(finite_layer_priors(job.priors), kind="stable")
        order = least_first[prunable[least_first]]
        if len(order) == len(cost):
            order = order[:-1]  # one layer is kept
        limits = in_force(p)

        if p.n_remove_layers is not None:
            if p.n_remove_layers > len(order):
                raise PlanError.too_many_layers(p.n_remove_layers, len(order), limits)
            gone = set(order[: p.n_remove_layers].tolist())
            budget = int(cost[list(gone)].sum())
        else:
            gone, budget = set(), p.budget(layout)
            left = budget
            for layer in order.tolist():
                if cost[layer] <= left:
                    gone.add(layer)
                    left -= int(cost[layer])
            if left > cost.max():
                raise PlanError.ratio_impossible(p.ratio, p.of, cost[order].sum() / p.denominator(layout), limits)

        short = budget - int(cost[list(gone)].sum())
        notes = [shortfall(short, budget, limits or ["only entire layers are removed"])] if short else []
        kept = {(b.layer, b.axis.name): () if b.layer in gone else range(b.units) for b in layout.blocks()}
        return Plan.of(layout, kept, budget, notes)
