"""The directory of a sweep: its finished runs and its comparison.

sweep.yaml   the file, with its base recipe written out
runs/NAME/   one run directory each, whole or not at all
failed/NAME.txt   why a run has no result
comparison.md, .csv, .html and the plots
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hgsp_core.files.text import write_text
from hgsp_core.report.runs import Comparison, comparison, flat, load_run
from hgsp_core.runtime.directory import LOCK, locked
from hgsp_core.runtime.errors import OutputError
from hgsp_core.runtime.recipe import Recipe, load_recipe, resolved
from hgsp_core.sweeps.cells import Cell, Grid
from hgsp_core.sweeps.errors import GridError

SWEEP, RUNS, FAILED = "sweep.yaml", "runs", "failed"


def finished(grid: Grid) -> frozenset[str]:
    """Names of the runs that are there.

    Raises:
        GridError: the directory is no sweep's, or another one's: a run of it is none of this grid or was made otherwise.
    """
    output = grid.output
    if not output.exists():
        return frozenset()
    if not (output / SWEEP).is_file():
        raise GridError.no_sweep(output)
    cells = {cell.name: cell for cell in grid.cells}
    there = sorted(d.name for d in (output / RUNS).glob("*") if d.is_dir() and not d.name.startswith("."))
    for name in there:
        if name not in cells:
            raise GridError.other_run(output, name)
        before, now = map(_settings, (load_recipe(output / RUNS / name / "recipe.yaml"), cells[name].recipe))
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if changed:
            told = [f"{key} {before.get(key)}, not {now.get(key)}" for key in changed]
            raise GridError.other_recipe(output, name, told)
    return frozenset(there)


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> value of everything that may change a result."""
    return dict(flat(resolved(recipe).model_dump(mode="json", exclude={"output"})))


@contextmanager
def sweep_directory(grid: Grid) -> Iterator[Path]:
    """The directory, made if it does not exist, and locked so that no second process works in it.

    Raises:
        OutputError: it cannot be made, or another process is at work there.
    """
    output = grid.output
    try:
        (output / RUNS).mkdir(parents=True, exist_ok=True)
        lock = locked(output / LOCK, OutputError.busy(str(output)))
    except OSError as error:
        raise OutputError.cannot_make(str(output), error) from None
    with lock:
        (output / SWEEP).write_text(grid.text, encoding="utf-8")
        shutil.rmtree(output / FAILED, ignore_errors=True)  # these runs are tried again
        yield output


def note_failure(output: Path, name: str, details: str) -> None:
    """Keep why a run failed, with the traceback where there is one."""
    (output / FAILED).mkdir(exist_ok=True)
    (output / FAILED / f"{name}.txt").write_text(details, encoding="utf-8")


def write_comparison(output: Path, cells: Mapping[str, Cell], failed: Mapping[str, str]) -> Comparison | None:
    """Table, page and plots of the finished runs; earlier ones are replaced. None if there is no run yet."""
    from hgsp_core.report.comparison import csv_text, markdown, run_table
    from hgsp_core.report.comparison_page import comparison_page
    from hgsp_core.report.pareto import costs_of, pareto_charts
    from hgsp_core.report.png import write_png

    runs = [load_run(output / RUNS / name, name) for name in cells if (output / RUNS / name).is_dir()]
    if not runs:
        return None
    found = comparison(runs)
    table = run_table(found)
    write_text(output / "comparison.csv", csv_text(table))
    write_text(output / "comparison.md", markdown(found, table))
    write_text(output / "comparison.html", comparison_page(f"Sweep {output.name}", found, table, failed))
    for cost in costs_of(found) if found.datasets else ():
        if charts := pareto_charts(found, cost):
            write_png(output / f"{cost.name}-perplexity.png", charts)
    return found
