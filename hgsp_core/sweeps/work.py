"""One task of a sweep in its own process, and its messages to the parent."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from pathlib import Path

from hgsp_core.errors import HgspError, message, without_credentials
from hgsp_core.runtime import monitor
from hgsp_core.runtime.recipe import Recipe
from hgsp_core.runtime.stopping import Stopped, stoppable
from hgsp_core.runtime.store import Store

#: seconds that a process has to remove unfinished files
PATIENCE = 20.0
#: where the work is: stage, steps done, of how many; or a warning
Told = tuple[str, int, int] | str
Tell = Callable[[Told], None]


@dataclass(frozen=True)
class Task:
    """Measure what the recipes of a group share (`shared`), or carry out one recipe."""

    name: str
    group: str
    recipes: tuple[Recipe, ...]
    shared: bool


@dataclass(frozen=True)
class Outcome:
    """How a task ended: `message` is empty where all went well, else one for the user; `details` has the traceback too."""

    message: str = ""
    details: str = ""


class TellingMonitor(monitor.LogMonitor):
    """Tells where the work is."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    @contextmanager
    def stage(self, name: str) -> Iterator[monitor.Progress]:
        self._tell((name, 0, 0))
        with super().stage(name):
            yield lambda done, total: self._tell((name, done, total))


def carry_out(task: Task, store: Store, tell: Tell) -> Outcome:
    """Carry out a task. No exception escapes: a failed run must not affect the others."""
    from hgsp_core.pipeline import run
    from hgsp_core.sweeps.shared import prepare

    try:
        with monitor.listening(monitor.Warnings(tell)):
            if task.shared:
                prepare(task.recipes, TellingMonitor(tell), store)
            else:
                for recipe in task.recipes:
                    run(recipe, TellingMonitor(tell), store)
    except HgspError as error:
        return Outcome(str(error), f"{error}\n")
    except Exception as error:  # noqa: BLE001 - whatever a plugin or a library raises; it is shown and kept
        line = str(error).strip().partition("\n")[0]
        return Outcome(message(f"{type(error).__name__}: {line}"), without_credentials(traceback.format_exc()))
    return Outcome()


def in_process(task: Task, store: Store, pipe: connection.Connection, place: int, jobs: int) -> None:
    """The body of a process that `Processes` starts; `place` is its seat among `jobs`."""
    os.dup2(2, 1)  # stdout is for the result of the command
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with stoppable():
            _share_the_machine(place, jobs)
            pipe.send(carry_out(task, store, pipe.send))
    except (Stopped, KeyboardInterrupt, BrokenPipeError):  # the sweep reports it, or has ended
        sys.exit(1)


def _end_with_parent() -> None:
    """A run whose sweep was killed must stop writing: the next sweep runs it again."""
    parent = parent_process()
    assert parent is not None  # this process is one of a sweep's
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)  # clears away what is half-written
    time.sleep(PATIENCE)
    os._exit(1)


def _share_the_machine(place: int, jobs: int) -> None:
    """Threads for each process as there are cores for it, and where there are several GPUs one after the other."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), max(1, (os.cpu_count() or 1) // jobs)))
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(place % torch.cuda.device_count())


def directory_of(task: Task) -> Path:
    """Where a run's result is to be."""
    return Path(task.recipes[0].output)
