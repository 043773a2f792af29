"""`hgsp run`: prune a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hgsp_core.cli.options import Cache, Json, Output, Quiet, RecipeFile, Settings, is_first, open_store, read_recipe
from hgsp_core.cli.show import headline_table, print_json, print_lines, print_reused, removed_line
from hgsp_core.cli.show import output as stdout

if TYPE_CHECKING:
    from hgsp_core.report.contract import Report
    from hgsp_core.runtime.recipe import Recipe


def run(
    recipe: RecipeFile,
    settings: Settings = None,
    output: Output = None,
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Prune a model by recipe and measure it before and after.

    Example: `hgsp run recipe.yaml --set allocate.with.ratio=0.3 --output results/try-30`

    Reads the recipe, its model (never modified) and the calibration text.

    To share the calibration set between processes: `torchrun --nproc-per-node=2 -m hgsp_core run recipe.yaml`

    Writes the run directory, which must not exist: `report.html` (open it first), `model/` (the pruned model, ready
    for transformers), `report.json`, `plan.json`, `recipe.yaml` (with every default), tables, plots and `run.log`;
    docs/reports.md lists them all. Tokens and statistics are kept in the store: a run with another ratio, temperature or
    normalizer reuses them.
    """
    prune(read_recipe(recipe, settings, output), cache, quiet, as_json)


def prune(recipe: Recipe, cache: Path | None, quiet: bool, as_json: bool) -> None:
    """Run the recipe and show the report."""
    from hgsp_core.cli.console import terminal

    with terminal(quiet or not is_first()) as monitor:
        from hgsp_core.pipeline import run as carry_out

        report = carry_out(recipe, monitor, open_store(cache))
    if is_first():
        show(report, Path(recipe.output), as_json)


def show(report: Report, directory: Path, as_json: bool) -> None:
    """The report: as JSON, or its headline for people."""
    if as_json:
        print_json(report)
        return
    from hgsp_core.report.texts import calibrated_on

    console = stdout()
    console.print(headline_table(report))
    console.print(removed_line(report["before"], report["after"]))
    for line in calibrated_on(report):
        console.print(line)
    print_lines(console, "Note", report["notes"])
    print_reused(console, report["reused"])
    print_lines(console, "Finding", findings(directory))
    console.print(f"Result: {directory}")
    console.print(f"Report: {directory / 'report.html'}")
    model = directory / "model"
    if (model / "config.json").is_file():
        console.print("Load it with:", *loading_lines(model), sep="\n  ")


def findings(directory: Path) -> list[str]:
    """The findings of the run's diagnosis, without notes."""
    from hgsp_core.report.diagnosis import read_diagnosis

    found = [f for f in read_diagnosis(directory)["findings"] if f["severity"] != "note"]
    return [f"{f['title']} ({f['severity']}). What to do: hgsp diagnose {directory}" for f in found]


def loading_lines(model: Path) -> tuple[str, str]:
    """Python that loads the model; with the flag only if it ships its class."""
    from hgsp_core.checkpoint.read import read_config

    flag = ", trust_remote_code=True" if "auto_map" in read_config(model) else ""
    code = f'model = AutoModelForCausalLM.from_pretrained("{model}"{flag})'
    return "from transformers import AutoModelForCausalLM", code
