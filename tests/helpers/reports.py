"""The files of a run as docs/reports.md promises them."""

import re

from tests.helpers.command import ROOT

DOCS = ROOT / "docs" / "reports.md"


def documented_files() -> set[str]:
    """Names in the first table of the page."""
    return {
        name.rstrip("/")
        for name in re.findall(r"(?m)^\| `([^`]+)` \|", DOCS.read_text(encoding="utf-8").split("## ")[0])
    }
