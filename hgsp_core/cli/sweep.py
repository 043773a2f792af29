"""`hgsp sweep`: a recipe over a grid of settings."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hgsp_core.cli.options import Cache, Json, Quiet, open_store, path_argument, path_option
from hgsp_core.cli.show import output as stdout
from hgsp_core.cli.show import print_json, print_lines

if TYPE_CHECKING:
    from hgsp_core.runtime.store import Store
    from hgsp_core.sweeps.cells import Grid
    from hgsp_core.sweeps.run import Result, Workers
    from hgsp_core.sweeps.shared import Group, Need

    #: runs that are there, groups of the others, and what they need, or why that cannot be known on this machine
    Forecast = tuple[frozenset[str], list[Group], dict[str, Need] | str]


def sweep(
    file: Annotated[Path, path_argument("SWEEP", "Sweep, a YAML file.")],
    output: Annotated[
        Path | None, path_option("--output", metavar="DIR", help="Directory of the sweep, not the file's 'output'.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="Parallel runs on this machine.")] = 1,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Run on this Ray cluster: an address, auto or local.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and their measurements, and exit.")] = False,
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run a recipe over a grid of settings, with shared measurements, and compare the runs.

    Example: `hgsp sweep recipes/sweeps/demo.yaml --jobs 2`

    Reads the sweep, its base recipe, the models and the calibration texts.

    Writes the directory of the sweep: `runs/NAME/` for each run, `comparison.html`, `.md` and `.csv`, plots of size and time
    against perplexity, and `failed/NAME.txt` for a failed run; the others continue, and the exit code is 1. Started again,
    the sweep resumes and keeps finished runs. Tokens and statistics are kept in the store.
    """
    from hgsp_core.cli.console import terminal
    from hgsp_core.sweeps.cells import load_grid

    grid = load_grid(file, output)
    store = open_store(cache)
    with terminal(quiet) as monitor:
        from hgsp_core.sweeps.run import Listener
        from hgsp_core.sweeps.run import sweep as run_all

        if dry_run:
            forecast = _forecast(grid, store)
        else:
            listener = Listener(monitor)
            workers: AbstractContextManager[Workers]
            if ray is None:
                from hgsp_core.sweeps.processes import processes

                workers = processes(store, jobs, listener.hear)
            else:
                from hgsp_core.sweeps.cluster import cluster

                workers = cluster(store, ray)
            result = run_all(grid, store, monitor, workers, listener)
    if dry_run:
        show_forecast(grid, forecast, as_json)
        return
    show(grid, result, as_json)
    if result.failed:
        raise typer.Exit(1)


def _forecast(grid: Grid, store: Store) -> Forecast:
    from hgsp_core.checkpoint.errors import CheckpointError
    from hgsp_core.data.errors import DataError
    from hgsp_core.sweeps.directory import finished
    from hgsp_core.sweeps.shared import groups_of, needs

    kept = finished(grid)
    groups = groups_of(cell for cell in grid.cells if cell.name not in kept)
    try:
        return kept, groups, needs(groups, store)
    except (CheckpointError, DataError) as error:  # on another machine the model may be there
        return kept, groups, str(error)


def show_forecast(grid: Grid, forecast: Forecast, as_json: bool) -> None:
    """The runs, and what is measured for them or found in the store."""
    kept, groups, needed = forecast
    if as_json:
        counts = needed if isinstance(needed, str) else {kind: asdict(need) for kind, need in needed.items()}
        runs = [{"name": c.name, "state": "there" if c.name in kept else "to run"} for c in grid.cells]
        print_json({"output": str(grid.output), "runs": runs, "groups": len(groups), "measured": counts})
        return
    console = stdout()
    for cell in grid.cells:
        console.print(f"{cell.name}{'  (there already)' if cell.name in kept else ''}")
    total = len(grid.cells) - len(kept)
    console.print(f"\n{len(grid.cells)} runs in {grid.output}, {len(kept)} there already.")
    times = "once" if len(groups) == 1 else f"{len(groups)} times"
    console.print(f"The other {total} runs measure {times}: once for each model, dtype and calibration set.")
    if isinstance(needed, str):
        console.print(f"The contents of the store cannot be checked here: {needed}")
        return
    for kind, need in needed.items():
        console.print(f"{kind:<13}{need.needed - need.stored:>5} to compute,{need.stored:>5} in the store")


def show(grid: Grid, result: Result, as_json: bool) -> None:
    """How it ended: the best runs, what failed, and where the comparison is."""
    from hgsp_core.cli.compare import as_data, show_best
    from hgsp_core.report.comparison import run_table

    found = result.comparison
    if as_json:
        runs = {"kept": list(result.kept), "done": list(result.done), "failed": result.failed}
        print_json({"output": str(grid.output), **runs, "comparison": found and as_data(found, run_table(found))})
        return
    console = stdout()
    if found:
        show_best(console, found)
        print_lines(console, "Warning", found.warnings)
    print_lines(console, "Failed", [f"{name}: {message}" for name, message in result.failed.items()])
    console.print(f"{len(result.done)} runs done, {len(result.kept)} were there, {len(result.failed)} failed.")
    if found:
        console.print(f"Comparison: {grid.output / 'comparison.html'}")
