"""The directory of a run: filled beside its final place and renamed into it, so that it exists whole or not at all."""

from __future__ import annotations

import fcntl
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from hgsp_core.runtime.errors import OutputError

log = logging.getLogger("hgsp")
LOCK = ".lock"


@contextmanager
def run_directory(output: Path, first: bool = True) -> Iterator[Path]:
    """A working directory that becomes `output` when the block ends well; otherwise nothing of it is left.

    `run.log` in it receives every line of the `hgsp` logger. Of several processes only the `first` makes and renames it.

    Raises:
        OutputError: `output` exists (it is never overwritten), or cannot be made.
    """
    try:
        if output.exists() or output.is_symlink():
            raise OutputError.exists(str(output))
    except OSError as error:  # a name that is too long, a parent that may not be looked into
        raise OutputError.cannot_make(str(output), error) from None
    staging = output.absolute().parent / f".{output.name}.partial"
    if not first:
        yield staging
        return
    parents = [p for p in output.absolute().parents if not p.exists()]
    try:
        if staging.exists():
            with _locked(staging, output):  # a run that is alive holds the lock
                shutil.rmtree(staging)  # left by one that was killed; what it measured is in the store
        staging.mkdir(parents=True)
        lock = _locked(staging, output)
    except OSError as error:
        _remove_empty(parents)
        raise OutputError.cannot_make(str(output), error) from None
    try:
        with lock:
            with _listening(_RunLog(staging / "run.log", encoding="utf-8")):
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
    """A line that cannot be written (a full disk) ends the run, as anything else does that cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise OutputError.cannot_make(self.baseFilename, error)
        raise  # logging calls this while it handles the error


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    """The handler hears the `hgsp` logger from INFO on."""
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
        handler.close()
    except BaseException:
        with suppress(OSError):  # what it could not write before
            handler.close()
        raise
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


def _locked(staging: Path, output: Path) -> IO[str]:
    """The lock of a working directory, held until it is closed or the process ends. Raises OutputError if it is taken."""
    file = (staging / LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OutputError.busy(str(output)) from None
    return file
