"""Repair in a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hgsp_core.artifacts import Calibration, Plan
from hgsp_core.repair.contract import Reconstructor
from hgsp_core.runtime.measure import open_weights
from hgsp_core.runtime.monitor import Monitor
from hgsp_core.runtime.recipe import Recipe
from hgsp_core.runtime.source import Source

if TYPE_CHECKING:
    from torch import Tensor


def repair(
    recipe: Recipe,
    source: Source,
    plan: Plan,
    calibration: Calibration | None,
    monitor: Monitor,
    keep: Callable[[Mapping[str, Tensor]], None],
) -> Plan:
    """The plan as the reconstructor leaves it, block by block on the model pruned so far; `keep` gets what it changes."""
    reconstructor = recipe.reconstruct.build(Reconstructor)
    if not reconstructor.targets:
        return plan
    assert calibration is not None  # ensured by `Methods.needs_tokens`
    from hgsp_core.repair.sequential import repair_blocks

    with monitor.stage("Repair") as progress:
        weights = open_weights(source.directory, source.layout, source.dtype, recipe, monitor)
        batch_size = recipe.calibrate.batch_size
        return repair_blocks(weights, plan, reconstructor, calibration.tokens, batch_size, keep, progress)
