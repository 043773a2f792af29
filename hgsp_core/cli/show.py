"""How results are printed: the headline table for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from hgsp_core.files.json_files import finite
from hgsp_core.report.tables import HEADER, headline

#: columns of a file or pipe, which nobody needs folded
_WIDE = 160


def output() -> Console:
    """stdout, where it is a file or pipe of a width that folds nothing."""
    return plain_console(soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)


def plain_console(**settings: Any) -> Console:
    """A console that shows any text as it is: `[bold]` is no markup and `:x:` no picture, whoever chose the name they stand in.

    Numbers and paths are not coloured, which would be noise here.
    """
    return Console(markup=False, emoji=False, highlight=False, **settings)


def print_json(value: Any) -> None:
    print(json.dumps(finite(value), indent=2, ensure_ascii=False))


def headline_table(report: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(HEADER):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in headline(report):
        table.add_row(*row.cells())
    return table


def removed_line(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Both meanings of the ratio: of the whole model, and of its decoder layers."""
    gone = before["parameters"] - after["parameters"]
    of_all, of_layers = gone / before["parameters"], gone / before["layer_parameters"]
    return f"Removed {of_all:.1%} of all parameters, {of_layers:.1%} of the layers'."


def print_lines(console: Console, label: str, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(f"{label}: {line}")


def print_reused(console: Console, names: Iterable[str]) -> None:
    """What came from the store and was not measured again."""
    if names:
        console.print(f"Reused: {', '.join(names)}")
