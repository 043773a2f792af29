"""Markdown from text that may hold anything: a name never becomes a link, a tag, a heading or another cell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

#: an underscore within a word is one
_SPECIAL = re.compile(r"[\\`*\[\]<>|&~]|(?<!\w)_|_(?!\w)|^[#+-](?=\s)")


def text(value: str) -> str:
    """The value as it is, on one line."""
    return _SPECIAL.sub(lambda found: "\\" + found[0], " ".join(value.split()))


def code(value: str) -> str:
    """The value as code within a line."""
    value = " ".join(value.split())
    ticks = "`" * (_longest_run(value) + 1)
    space = " " if value[:1] == "`" or value[-1:] == "`" else ""
    return f"{ticks}{space}{value}{space}{ticks}"


def block(value: str, language: str) -> str:
    """Lines of code as they are."""
    fence = "`" * max(3, _longest_run(value) + 1)
    return f"{fence}{language}\n{value.rstrip()}\n{fence}"


def bullets(values: Iterable[str]) -> str:
    return "\n".join(f"- {text(value)}" for value in values)


def table(header: Iterable[str], rows: Iterable[Iterable[str]], right: Sequence[bool]) -> str:
    """A table of cells that are Markdown already. `right`: which columns are flush right."""
    rule = f"|{'|'.join('---:' if r else '---' for r in right)}|"
    return "\n".join([_row(header), rule, *map(_row, rows)])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _longest_run(value: str) -> int:
    return max(map(len, re.findall("`+", value)), default=0)
