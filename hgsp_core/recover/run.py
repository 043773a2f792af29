"""Recovery in a run: refused early where it cannot be, called in the processes that take part, resumed after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hgsp_core.artifacts import Calibration
from hgsp_core.checkpoint.fingerprint import fingerprint
from hgsp_core.engine.launched import launched
from hgsp_core.recover.contract import Recoverer, RecoverJob
from hgsp_core.runtime.measure import placed
from hgsp_core.runtime.monitor import Monitor
from hgsp_core.runtime.recipe import Recipe, Use, resolved_use
from hgsp_core.runtime.session import wait_for_all
from hgsp_core.runtime.source import Source
from hgsp_core.runtime.store import Store, key_of


def recover(
    recoverer: Recoverer[Any],
    recipe: Recipe,
    source: Source,
    calibration: Calibration | None,
    checkpoint: Path,
    work: Path,
    monitor: Monitor,
    first: bool,
) -> tuple[Path, Mapping[str, Any] | None]:
    """The checkpoint after training and the recoverer's report; `checkpoint` is deleted."""
    recovered = checkpoint.with_name(".recovered")
    _, device = placed(source.dtype, recipe.device)
    seed, architecture = recipe.calibrate.seed, source.layout.architecture
    with monitor.stage("Recover") as progress:
        dense = source.directory
        job = RecoverJob(checkpoint, recovered, calibration, seed, architecture, dense, device, work, progress)
        told = call_recoverer(recoverer, job, first)
        if first:
            shutil.rmtree(checkpoint)
        wait_for_all()
    return recovered, told


def call_recoverer(recoverer: Recoverer[Any], job: RecoverJob, first: bool) -> Mapping[str, Any] | None:
    """The recoverer's report, in the first process; every process returns when `job.destination` exists."""
    told = recoverer(job) if first or recoverer.parallel else None
    wait_for_all()
    return told


def recovery_work(store: Store, use: Use, seed: int, checkpoint: Path, calibration: Calibration | None = None) -> Path:
    """The directory for the checkpoints of a training: in the store, so that a run finds those of one that was killed."""
    inputs = {
        "model": fingerprint(checkpoint),
        "recover": resolved_use("recoverer", use).model_dump(mode="json"),
        "seed": seed,
        "processes": launched(),
        "tokens": calibration and calibration.sha256,
    }
    return store.root / "recovery" / key_of(inputs)
