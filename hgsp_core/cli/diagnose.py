"""`hgsp diagnose`: what is wrong with a run, and what repairs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hgsp_core.cli.options import Json, path_argument
from hgsp_core.cli.show import output as stdout
from hgsp_core.cli.show import plain_table, print_json

if TYPE_CHECKING:
    from hgsp_core.report.contract import Diagnosis


def diagnose(run: Annotated[Path, path_argument("RUN", "Directory of a finished run.")], as_json: Json = False) -> None:
    """Show whether a run pruned some layers far too much, why, and the recipe lines that repair it.

    Example: `hgsp diagnose results/first`

    Reads gradient_diagnosis.json of the run (docs/reports.md explains it). Writes nothing.
    """
    from hgsp_core.report.diagnosis import read_diagnosis

    found = read_diagnosis(run)
    if as_json:
        print_json(found)
    else:
        show(found, run)


def show(found: Diagnosis, run: Path) -> None:
    """The findings, worst first, and the checks."""
    from hgsp_core.report.diagnosis import check_value, repair_options, repair_text

    console, shown = stdout(), None
    for finding in found["findings"]:
        console.print(f"{finding['severity'].upper()}: {finding['title']}", style="bold")
        console.print(f"  {finding['text']}")
        if (repair := finding["repair"]) and repair == shown:
            console.print("  The same recipe lines repair it.")
        elif repair:
            shown = repair
            console.print(f"  {repair_text(repair)}")
            for line in repair["recipe"].rstrip().splitlines():
                console.print(f"      {line}")
            console.print(f"  As a command: hgsp run {run / 'recipe.yaml'} {repair_options(repair)} --output NEW")
        console.print()
    if not found["findings"]:
        console.print("No findings: no layer was pruned so much that other settings are needed.")
        console.print()
    rows = ((check["check"], check_value(check), "yes" if check["ok"] else "no") for check in found["checks"])
    console.print(plain_table(("", "this run", "healthy"), rows))
