"""Processes on this machine: one a task, forked from a server that has the libraries loaded already.

Each run so has a peak memory of its own, and one that the system kills (memory that ran out) ends alone.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess

from hgsp_core.runtime.fresh import elsewhere
from hgsp_core.runtime.stopping import unheard
from hgsp_core.runtime.store import Store
from hgsp_core.sweeps.errors import GridError
from hgsp_core.sweeps.work import PATIENCE, Outcome, Task, Told, in_process

#: told which task said what
Hear = Callable[[Task, Told], None]


@dataclass
class Processes:
    """Up to `slots` tasks at a time."""

    store: Store
    slots: int
    hear: Hear
    _running: dict[int, tuple[Task, BaseProcess, connection.Connection]] = field(default_factory=dict)

    def start(self, task: Task) -> None:
        context = multiprocessing.get_context("forkserver")
        place = next(i for i in range(self.slots) if i not in self._running)
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=in_process, args=(task, self.store, there, place, self.slots), daemon=False)
        process.start()
        there.close()  # the process has its own; here it would hide that the process ended
        self._running[place] = task, process, here

    def wait(self) -> tuple[Task, Outcome]:
        """The next task that ends, and how."""
        while True:
            ready = connection.wait([pipe for _, _, pipe in self._running.values()])
            for place, (task, process, pipe) in self._running.items():
                if pipe not in ready:
                    continue
                try:
                    message: Outcome | Told = pipe.recv()
                except (EOFError, OSError):  # it ended without a word
                    process.join()
                    assert process.exitcode is not None
                    died = str(GridError.died(process.exitcode))
                    message = Outcome(died, f"{died}\n")
                if isinstance(message, Outcome):
                    process.join()
                    pipe.close()
                    del self._running[place]
                    return task, message
                self.hear(task, message)

    def close(self) -> None:
        """Stop the running processes; each removes its unfinished files."""
        for _, process, _ in self._running.values():
            process.terminate()
        for _, process, pipe in self._running.values():
            process.join(PATIENCE)
            process.kill()
            process.join()
            pipe.close()
        self._running.clear()


@contextmanager
def processes(store: Store, jobs: int, hear: Hear) -> Iterator[Processes]:
    workers = Processes(store, jobs, hear)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["hgsp_core.sweeps.loaded"])
    with elsewhere(), unheard():
        forkserver.ensure_running()
    try:
        yield workers
    finally:
        workers.close()
