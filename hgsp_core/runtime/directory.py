"""The directory of a run: filled in a staging directory and renamed, so that it is complete or absent."""

from __future__ import annotations

import fcntl
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from hgsp_core.errors import HgspError
from hgsp_core.runtime.errors import OutputError
from hgsp_core.runtime.monitor import listening

LOCK = ".lock"


@contextmanager
def new_output(output: Path) -> Iterator[None]:
    """The block makes `output`, which must not exist. Raises OutputError where it exists or cannot be made."""
    try:
        if output.exists() or output.is_symlink():
            raise OutputError.exists(str(output))
        yield
    except OSError as error:
        raise OutputError.cannot_make(str(output), error) from None


def locked(file: Path, busy: HgspError) -> IO[str]:
    """The open lock file, held until it is closed or the process ends. Raises `busy` where another process holds it."""
    lock = file.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise busy from None
    return lock


@contextmanager
def run_directory(output: Path, first: bool = True) -> Iterator[Path]:
    """A staging directory that becomes `output` when the block succeeds, and is removed when it fails.

    `run.log` in it receives every line of the `hgsp` logger. Of several processes only the `first` makes and renames it.

    Raises:
        OutputError: `output` exists (it is never overwritten), or cannot be made.
    """
    with new_output(output):
        parents = [p for p in output.absolute().parents if not p.exists()]
    staging, busy = output.absolute().parent / f".{output.name}.partial", OutputError.busy(str(output))
    if not first:
        yield staging
        return
    try:
        if staging.exists():
            with locked(staging / LOCK, busy):  # a live run holds the lock
                shutil.rmtree(staging)  # of a killed run; its measurements are in the store
        staging.mkdir(parents=True)
        lock = locked(staging / LOCK, busy)
    except OSError as error:
        _remove_empty(parents)
        raise OutputError.cannot_make(str(output), error) from None
    try:
        with lock:
            with listening(_RunLog(staging / "run.log", encoding="utf-8")):
                yield staging
            if output.exists():
                raise OutputError.exists(str(output))
            (staging / LOCK).unlink()
            staging.rename(output)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        _remove_empty(parents)
        raise


def _remove_empty(directories: Sequence[Path]) -> None:
    """Innermost first; only those that were made here, and only while they are empty."""
    with suppress(OSError):
        for directory in directories:
            directory.rmdir()


class _RunLog(logging.FileHandler):
    """A line that cannot be written (a full disk) ends the run."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise OutputError.cannot_make(self.baseFilename, error)
        raise  # logging calls this while it handles the error
