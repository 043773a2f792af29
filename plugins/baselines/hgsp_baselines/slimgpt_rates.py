"""Layer rates of SlimGPT: its "incremental pruning ratio" (Ling et al. 2024, arXiv 2412.18110).

Errors of pruned layers add up towards the output, so the first layers, which all others stand on, lose least:

    rate_i = rate_0 + (rate_last − rate_0) · ln(1 + i) / ln(layers),   rate_0 = first · rate_last

The two ends follow from the budget, which is met up to one unit. The authors' code has 6 % and 30 % as its ends, and
ln(32) for any number of layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from hgsp_core import AllocateJob, Allocator, Plan
from hgsp_core.allocate.budget import Capacity, RatioParams, plan_within
from hgsp_core.allocate.limits import SizeLimits, floors, in_force, of_blocks
from hgsp_core.allocate.rates import fill_channels, queue_by_rate, rates_of_blocks, scaled_rates


class SlimGPTRatesParams(RatioParams):
    first: float = Field(
        0.2, ge=0, le=1, description="rate of the first layer as a share, 0..1, of the last layer's; 1 = equal rates"
    )
    limits: SizeLimits = Field(SizeLimits(), description="minimum units of each block")


class SlimGPTRates(Allocator[SlimGPTRatesParams]):
    """Sets rates that grow with the logarithm of depth.

    Formula: `rate_i = r₀ + (r_last − r₀)·ln(1 + i)/ln(layers)`, with `r₀ = first·r_last`, scaled to the budget.
    Source: SlimGPT (Ling et al. 2024, arXiv 2412.18110): incremental pruning ratio.
    Cost: none.
    When: with the reconstructor `slimgpt`, which chooses the units. Without it each block removes its lowest-scored
        ones.
    Notes: Attention removes round(rate · groups) groups (a half rounds down), and the layer's MLP the rest of its
        rate.
    """

    needs_priors = False

    def __call__(self, job: AllocateJob) -> Plan:
        p, layout = self.params, job.layout
        cost = np.array([layer.cost for layer in layout.layers])
        rates = scaled_rates(log_increasing(len(cost), p.first), cost, p.budget(layout), 0.0, 1.0)  # [layers]
        floor = np.maximum(
            floors(p.limits, layout, of_blocks(rates > 0, layout) & job.scores.scored(layout)), 1
        )  # [blocks]
        groups, block_rates = rates_of_blocks(layout, rates, floor)
        queue = queue_by_rate(layout, job.scores, block_rates, floor, p.limits.multiple)

        def solve(budget: int) -> tuple[np.ndarray, Sequence[str]]:
            return fill_channels(queue, groups, [Capacity.total(queue, budget)]), []

        return plan_within(layout, queue, p, solve, in_force(p))


def log_increasing(layers: int, first: float) -> np.ndarray:
    """[layers], `first` .. 1: what the rates are proportional to."""
    if layers == 1:
        return np.ones(1)
    return first + (1 - first) * np.log1p(np.arange(layers)) / np.log(layers)
