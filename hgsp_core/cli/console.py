"""What a command shows while it works: lines and progress bars on stderr; stdout is for the result."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hgsp_core.cli.show import plain_console
from hgsp_core.runtime import monitor

#: seconds that a stage takes before it gets a bar
PATIENCE = 2.0


class _Bars(Progress):
    """Bars of stages that take longer than PATIENCE."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table([task for task in self.tasks if (task.elapsed or 0) > PATIENCE])


class TerminalMonitor:
    """A `Monitor` for people: a line for what is said and for each finished stage, and a bar for the present one.

    Without a terminal there are no bars; `quiet` leaves only warnings.
    """

    def __init__(self, console: Console, quiet: bool) -> None:
        self.timings: dict[str, float] = {}
        self._console = console
        self._quiet = quiet
        self._bars = _Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            speed_estimate_period=3600,  # seconds: the runs of a sweep may each take minutes
            disable=quiet or not console.is_terminal,
        )

    def say(self, text: str) -> None:
        monitor.log.info("%s", text)
        if not self._quiet:
            self._console.print(text, soft_wrap=True, markup=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[monitor.Progress]:
        before = self.timings.get(name, 0.0)
        task = self._bars.add_task(name, total=None)
        if len(self._bars.tasks) == 1:  # the outermost stage
            self._bars.start()
        try:
            with monitor.timed(name, self.timings):
                yield lambda done, total: self._bars.update(task, completed=done, total=total)
        finally:
            self._bars.remove_task(task)
            if not self._bars.tasks:
                self._bars.stop()
        if not self._quiet:
            self._console.print(f"{name:<28}{self.timings[name] - before:8.1f} s", style="dim")


@contextmanager
def terminal(quiet: bool) -> Iterator[TerminalMonitor]:
    """A monitor on stderr. Prints of libraries and plugins are sent to stderr too."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # two kinds of bars on one terminal overwrite each other
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    console = plain_console(stderr=True)
    warnings = monitor.Warnings(lambda text: console.print(f"Warning: {text}", style="yellow", soft_wrap=True))
    with monitor.listening(warnings), _stdout_as_stderr():
        yield TerminalMonitor(console, quiet)


@contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    """Also for libraries that write to the file descriptor, such as tokenizers."""
    sys.stdout.flush()
    result = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(result, 1)
        os.close(result)
