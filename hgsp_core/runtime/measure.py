"""What a run measures: the statistics that its methods ask for, kept in the store.

torch is imported where something is computed: what is found in the store, or refused, needs none.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hgsp_core.artifacts import Calibration, LayerStatistics, Plan, Statistics
from hgsp_core.errors import RecipeError
from hgsp_core.model.layout import Layout
from hgsp_core.runtime.monitor import Monitor
from hgsp_core.runtime.recipe import Recipe
from hgsp_core.runtime.source import BYTES, Source
from hgsp_core.runtime.store import Store

if TYPE_CHECKING:
    import torch

    from hgsp_core.engine.collectors import Collector, GradientScale
    from hgsp_core.engine.weights import Weights

#: name of what was found in the store -> seconds that it took to make
Reused = dict[str, float]


def measure(
    recipe: Recipe,
    source: Source,
    calibration: Calibration | None,
    collectors: Sequence[Collector],
    monitor: Monitor,
    store: Store,
    reused: Reused,
    plan: Plan | None = None,
) -> Statistics:
    """What the methods asked for: from the store where it is there, and from one sweep for all the rest.

    With a plan, statistics are of the pruned model: masking the removed units is the same as cutting them.
    """
    tokens_sha256 = calibration.sha256 if calibration else None
    inputs = {c.key: statistics_inputs(source, tokens_sha256, c, plan) for c in collectors}
    values: dict[str, Sequence[LayerStatistics]] = {
        key: _unpack(kept, len(source.layout.layers))
        for key in inputs
        if (kept := store.get("statistics", inputs[key]))
    }
    if found := {c.key: store.seconds("statistics", inputs[c.key]) for c in collectors if c.key in values}:
        longest = max(found, key=found.__getitem__)  # a run of its own measures all of them in one sweep
        for c in collectors:
            if c.key in found:
                name = f"statistics {type(c).__name__}"
                reused[name] = reused.get(name, 0.0) + (found[c.key] if c.key == longest else 0.0)
    missing = [c for c in collectors if c.key not in values]
    if missing:
        from hgsp_core.engine.run import run_sweep
        from hgsp_core.engine.weights import Masked

        start = time.perf_counter()
        with monitor.stage("Load"):
            weights = open_weights(source.directory, source.layout, source.dtype, recipe, monitor)
            weights = Masked(weights, plan) if plan else weights
        with monitor.stage("Sweep") as progress:
            tokens = calibration.tokens if calibration else None
            batch, memory = recipe.calibrate.batch_size, recipe.memory
            measured = run_sweep(weights, source.layout, tokens, missing, batch, progress, memory, monitor.say)
        seconds = time.perf_counter() - start
        for c in missing:
            values[c.key] = measured[c]
            store.put("statistics", inputs[c.key], _pack(measured[c]), seconds)
    return Statistics(values)


def statistics_inputs(source: Source, tokens: str | None, collector: Collector, plan: Plan | None) -> dict[str, Any]:
    """What a collector's statistics are made from: their key in the store. `tokens`: sha256 of the calibration."""
    return {
        "model": source.fingerprint,
        "architecture": repr(source.layout.architecture),
        "dtype": source.dtype,
        "tokens": tokens if collector.needs_tokens else None,
        "collector": collector.key,
        "plan": plan and plan.sha256,
    }


def gradient_scale(collectors: Iterable[Collector]) -> GradientScale | None:
    """The collector of the gradients' scale, where another one takes gradients: for next to nothing more."""
    if not (collectors := list(collectors)):
        return None
    from hgsp_core.engine.collectors import Depth, GradientScale

    return GradientScale() if any(c.depth == Depth.BACKWARD for c in collectors) else None


def open_weights(directory: Path, layout: Layout, dtype: str, recipe: Recipe, monitor: Monitor) -> Weights:
    """A checkpoint's weights: resident, or streamed if they would not fit."""
    from hgsp_core.checkpoint.load import load_model, require_agreement
    from hgsp_core.engine.weights import Resident, Streamed

    (number_type, device), choice = placed(dtype, recipe.device), recipe.model.weights
    if choice == "streamed" or (choice == "auto" and not fits(layout.parameters, dtype, device, monitor)):
        return Streamed(directory, layout, number_type, device)
    model, _ = load_model(directory, number_type, device)
    require_agreement(directory, model, layout.shapes())
    return Resident(model, layout)


def fits(parameters: int, dtype: str, device: str, monitor: Monitor) -> bool:
    """Whether the weights fit in memory with room to spare; says so where they are to be streamed instead."""
    import torch

    from hgsp_core.engine.memory import SHARE, free_bytes

    needed, free = parameters * BYTES[dtype], free_bytes(torch.device(device))
    if needed > SHARE * free:
        there = f"{free / 2**30:.2f} GiB of free memory"
        monitor.say(f"Weights are streamed: {needed / 2**30:.2f} GiB do not fit safely into {there}.")
    return needed <= SHARE * free


def placed(dtype: str, device: str) -> tuple[torch.dtype, str]:
    """(torch dtype, device name); `auto` is the GPU where there is one."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise RecipeError(
                f"device: '{device}' is not there: torch sees {torch.cuda.device_count()} GPUs. Set device: cpu or auto."
            )
    return getattr(torch, dtype), device


def _pack(layers: Sequence[LayerStatistics]) -> dict[str, np.ndarray]:
    return {f"{index}.{name}": np.asarray(array) for index, layer in enumerate(layers) for name, array in layer.items()}


def _unpack(arrays: Mapping[str, np.ndarray], layers: int) -> list[dict[str, np.ndarray]]:
    found: list[dict[str, np.ndarray]] = [{} for _ in range(layers)]
    for key, array in arrays.items():
        index, _, name = key.partition(".")
        found[int(index)][name] = array
    return found
