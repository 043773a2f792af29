"""How results are printed: the headline table for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from hgsp_core.report.tables import HEADER, headline

#: columns of a file or pipe
_WIDE = 160


def output() -> Console:
    """stdout; a file or pipe is wide enough that nothing folds."""
    return plain_console(soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)


def plain_console(**settings: Any) -> Console:
    """A console that shows any text as it is: `[bold]` is no markup and `:x:` no picture. Numbers and paths are not coloured."""
    return Console(markup=False, emoji=False, highlight=False, **settings)


def json_text(value: Any) -> str:
    from hgsp_core.files.json_files import finite

    return json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n"


def print_json(value: Any) -> None:
    print(json_text(value), end="")


def plain_table(header: Iterable[str], rows: Iterable[Iterable[str]], left: int = 1, wrap: bool = False) -> Table:
    """A table without lines: the first `left` columns are flush left, the others flush right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < left else "right", no_wrap=not wrap)
    for row in rows:
        table.add_row(*row)
    return table


def headline_table(report: Mapping[str, Any]) -> Table:
    return plain_table(HEADER, (row.cells() for row in headline(report)))


def removed_line(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Both meanings of the ratio: of the model and of its decoder layers."""
    removed = before["parameters"] - after["parameters"]
    of_all, of_layers = removed / before["parameters"], removed / before["layer_parameters"]
    return f"Removed {of_all:.1%} of all parameters, {of_layers:.1%} of the layers'."


def print_lines(console: Console, label: str, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(f"{label}: {line}")


def print_reused(console: Console, names: Iterable[str]) -> None:
    """What was reused from the store."""
    if names:
        console.print(f"Reused: {', '.join(names)}")
