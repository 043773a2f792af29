"""Disk space for a checkpoint: checked before it is written, and named when it runs out."""

from __future__ import annotations

import shutil
from pathlib import Path

from hgsp_core.checkpoint.errors import CheckpointError


def require_room(destination: Path, needed: int) -> None:
    """Raises CheckpointError if the disk of `destination` has less than `needed` bytes free."""
    free = _free(destination)
    if needed > free:
        raise CheckpointError.no_room(destination, needed, free)


def given_up(destination: Path, error: Exception, needed: int) -> CheckpointError:
    """Removes `destination`; returns the error that says so and how much space it needs."""
    shutil.rmtree(destination, ignore_errors=True)
    return CheckpointError.not_written(destination, error, needed, _free(destination))


def _free(destination: Path) -> int:
    """Bytes free on the disk of the nearest existing directory."""
    return shutil.disk_usage(next(path for path in destination.absolute().parents if path.exists())).free
