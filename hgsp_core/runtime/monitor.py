"""How stages report to the user: lines, and the progress of the current stage.

The pipeline is handed a monitor and knows nothing else of its user. `LogMonitor` serves programs; the command line brings its
own with progress bars (`cli/console.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

from hgsp_core.errors import without_credentials

log = logging.getLogger("hgsp")


def _without_credentials(record: logging.LogRecord) -> bool:
    record.msg, record.args = without_credentials(record.getMessage()), ()
    return True


log.addFilter(_without_credentials)  # for every handler: run.log, the terminal, a program's own

#: receives (done, total) steps of the current stage
Progress = Callable[[int, int], None]


class Monitor(Protocol):
    """What a stage may call. `timings`: stage -> seconds; a stage entered twice adds up."""

    timings: dict[str, float]

    def say(self, text: str) -> None:
        """Tell the user one line."""

    def stage(self, name: str) -> AbstractContextManager[Progress]:
        """Everything inside is the stage `name`; yields its `progress(done, total)`."""


@contextmanager
def timed(name: str, timings: dict[str, float]) -> Iterator[None]:
    """Log start and end of a stage, and add its seconds to `timings`, also where the stage fails."""
    log.info("%s: start", name)
    start, ended = time.perf_counter(), "failed"
    try:
        yield
        ended = "done"
    finally:
        seconds = time.perf_counter() - start
        timings[name] = timings.get(name, 0.0) + seconds
        log.info("%s: %s after %.2f s", name, ended, seconds)


class Warnings(logging.Handler):
    """Hands each warning of the logger to `tell`."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())


@contextmanager
def listening(handler: logging.Handler) -> Iterator[None]:
    """The handler receives the `hgsp` logger from INFO on."""
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


class LogMonitor:
    """Reports to the `hgsp` logger only."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}

    def say(self, text: str) -> None:
        log.info("%s", text)

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        with timed(name, self.timings):
            yield lambda done, total: None
