"""`hgsp compare`: runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hgsp_core.cli.options import Json, path_argument, path_option
from hgsp_core.cli.show import json_text, plain_table, print_lines
from hgsp_core.cli.show import output as stdout

if TYPE_CHECKING:
    from rich.console import Console

    from hgsp_core.report.comparison import RunTable
    from hgsp_core.report.runs import Comparison


def compare(
    runs: Annotated[list[Path], path_argument("RUN...", "Directories of runs, or of a sweep.")],
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="COLUMN", help="Sort the runs of each model by this column: 'parameters'."),
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print as Markdown.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print as CSV, with every measurement.")] = False,
    as_html: Annotated[bool, typer.Option("--html", help="Print as one HTML page with plots.")] = False,
    output: Annotated[
        Path | None, path_option("--output", "-o", metavar="FILE", help="Write to FILE, which must not exist.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare runs in one table: size, perplexity, accuracy, speed, memory and time; warns if they are not comparable.

    Example: `hgsp compare results/* --html -o comparison.html`

    Reads report.json and plan.json of each run. Writes only FILE, if given.
    """
    from hgsp_core.report.comparison import run_table
    from hgsp_core.report.runs import comparison, load_runs

    found = comparison(load_runs(runs))
    table = run_table(found)
    table = table.sorted_by(sort) if sort else table
    forms = {"markdown": as_markdown, "csv": as_csv, "html": as_html, "json": as_json}
    chosen = [form for form, wanted in forms.items() if wanted]
    if len(chosen) > 1 or (output and not chosen):
        fault = "choose one of --markdown, --csv, --html and --json"
        raise typer.BadParameter(fault, param_hint="--output" if output else None)
    if not chosen:
        show(found, table)
    elif output is None:
        typer.echo(_text(chosen[0], found, table), nl=False)
    else:
        write_new(output, _text(chosen[0], found, table))
        typer.echo(f"Wrote {output}")


def as_data(found: Comparison, table: RunTable) -> dict[str, Any]:
    """runs (one object per row, originals included), best (of each model and budget) and warnings."""
    from hgsp_core.report.comparison import best_table

    header, best = best_table(found)
    return {
        "runs": table.records(),
        "best": [dict(zip(header, row, strict=True)) for row in best],
        "warnings": found.warnings,
    }


def _text(form: str, found: Comparison, table: RunTable) -> str:
    from hgsp_core.report.comparison import csv_text, markdown

    if form == "markdown":
        return markdown(found, table)
    if form == "csv":
        return csv_text(table)
    if form == "json":
        return json_text(as_data(found, table))
    from hgsp_core.report.comparison_page import comparison_page

    return comparison_page("Comparison of pruning runs", found, table, {})


def write_new(path: Path, text: str) -> None:
    """Write a new file atomically. Raises OutputError."""
    from hgsp_core.files.text import write_text
    from hgsp_core.runtime.directory import new_output

    with new_output(path):
        write_text(path, text)


def show(found: Comparison, table: RunTable) -> None:
    """For people: the table, the best runs and the warnings."""
    from rich.table import Table

    from hgsp_core.report.comparison import legend

    console = stdout()
    columns, cells = table.shown()
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.show else "left"
        shown.add_column(column.title, justify=justify, no_wrap=bool(column.show), overflow="fold")
    for line, row in zip(table.lines, cells, strict=True):
        shown.add_row(*row, style="bold" if line.run is None else None)
    console.print(shown)
    for note in (*table.footnotes(), *legend(found)):
        console.print(note, style="dim")
    show_best(console, found)
    print_lines(console, "Warning", found.warnings)


def show_best(console: Console, found: Comparison) -> None:
    from hgsp_core.report.comparison import best_table

    header, rows = best_table(found)
    if rows:
        console.print("\nBest of each budget")
        console.print(plain_table(header, rows, left=len(header), wrap=True))
