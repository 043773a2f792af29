"""A sweep from its grid to its comparison."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Protocol

from hgsp_core.report.runs import Comparison
from hgsp_core.runtime.monitor import Monitor, Progress, log
from hgsp_core.runtime.store import Store
from hgsp_core.sweeps.cells import Grid
from hgsp_core.sweeps.directory import finished, note_failure, sweep_directory, write_comparison
from hgsp_core.sweeps.shared import Group, check, groups_of
from hgsp_core.sweeps.work import Outcome, Task, Told


class Workers(Protocol):
    """Where tasks are carried out, at most `slots` at a time."""

    slots: int

    def start(self, task: Task) -> None: ...

    def wait(self) -> tuple[Task, Outcome]: ...


@dataclass(frozen=True)
class Result:
    """kept: runs that were there already; done: those of now; failed: run -> message. `comparison` is of all that are there."""

    kept: tuple[str, ...]
    done: tuple[str, ...]
    failed: dict[str, str]
    comparison: Comparison | None


class Listener:
    """Shows a stage of the monitor for each running task, and the warnings of tasks."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._open: dict[str, tuple[ExitStack, Progress]] = {}

    def started(self, task: Task) -> None:
        stack = ExitStack()
        self._open[task.name] = stack, stack.enter_context(self._monitor.stage(task.name))

    def hear(self, task: Task, message: Told) -> None:
        if isinstance(message, str):
            log.warning("%s: %s", task.name, message)
            return
        _, done, total = message
        if total:
            self._open[task.name][1](done, total)

    def ended(self, task: Task) -> None:
        self._open.pop(task.name)[0].close()


def sweep(
    grid: Grid, store: Store, monitor: Monitor, workers: AbstractContextManager[Workers], listener: Listener
) -> Result:
    """Run the missing runs, continue after failed ones, and compare all finished runs.

    Raises:
        HgspError: before anything is written: the output holds another sweep, a model or text is not there.
    """
    kept = finished(grid)
    waiting = [cell for cell in grid.cells if cell.name not in kept]
    check(waiting)
    done: list[str] = []
    failed: dict[str, str] = {}
    with sweep_directory(grid) as output:
        if waiting:
            with workers as ready, monitor.stage("Runs") as progress:
                progress(0, len(waiting))
                for task, outcome in _outcomes(groups_of(waiting), ready, listener):
                    if task.shared:
                        if outcome.message:  # each run of the group then measures for itself, and tells what is wrong
                            log.warning("%s could not be measured at once: %s", task.name, outcome.message)
                        continue
                    if outcome.message:
                        failed[task.name] = outcome.message
                        note_failure(output, task.name, outcome.details)
                        log.warning("%s failed: %s", task.name, outcome.message)
                    else:
                        done.append(task.name)
                    progress(len(done) + len(failed), len(waiting))
        with monitor.stage("Compare"):
            found = write_comparison(output, {cell.name: cell for cell in grid.cells}, failed)
    return Result(tuple(c.name for c in grid.cells if c.name in kept), tuple(done), failed, found)


def _outcomes(groups: Sequence[Group], workers: Workers, listener: Listener) -> Iterator[tuple[Task, Outcome]]:
    """Every task as it ends. A group's runs follow what they share; the groups of a model follow its first one."""
    runs = {g.name: [Task(cell.name, g.name, (cell.recipe,), False) for cell in g.cells] for g in groups}
    followers: dict[str, list[Task]] = {}
    ready: deque[Task] = deque()
    first_of: dict[str, str] = {}
    for group in groups:
        task = Task(f"measure {group.name}", group.name, group.recipes, True)
        first = first_of.setdefault(group.recipes[0].model.model_dump_json(), group.name)
        (ready if first == group.name else followers.setdefault(first, [])).append(task)
    busy = 0
    while ready or busy:
        while ready and busy < workers.slots:
            task = ready.popleft()
            listener.started(task)
            workers.start(task)
            busy += 1
        task, outcome = workers.wait()
        busy -= 1
        listener.ended(task)
        if task.shared:
            ready.extendleft(reversed(runs[task.group]))
            ready.extend(followers.get(task.group, ()))
        yield task, outcome
