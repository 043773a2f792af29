"""The disk that a checkpoint needs: looked at before it is written, and named where it ran out."""

from __future__ import annotations

import shutil
from pathlib import Path

from hgsp_core.checkpoint.errors import CheckpointError


def require_room(destination: Path, needed: int) -> None:
    """Raises CheckpointError where the disk that `destination` is to lie on has less than `needed` bytes free."""
    free = _free(destination)
    if needed > free:
        raise CheckpointError.no_room(destination, needed, free)


def given_up(destination: Path, error: Exception, needed: int) -> CheckpointError:
    """Remove what was written of `destination`; the error that says so, and what it would have needed."""
    shutil.rmtree(destination, ignore_errors=True)
    return CheckpointError.not_written(destination, error, needed, _free(destination))


def _free(destination: Path) -> int:
    """Bytes free on the disk of the nearest directory that is there."""
    return shutil.disk_usage(next(path for path in destination.absolute().parents if path.exists())).free
