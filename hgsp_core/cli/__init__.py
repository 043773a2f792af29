"""`hgsp`: the command line. One file per command; heavy imports happen when it runs, so that help is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from hgsp_core.cli import (
    baseline,
    compare,
    diagnose,
    eval,
    export,
    finetune,
    plan,
    plugins,
    prune,
    recipe,
    run,
    sweep,
    verify,
)
from hgsp_core.cli.faults import readable_faults
from hgsp_core.cli.flags import FlagCommand

app = typer.Typer(
    name="hgsp",
    help="""Prune Hugging Face language models by recipe: attention groups, MLP channels, blocks and layers.

    Write a recipe with `hgsp recipe init`, preview it with `hgsp plan recipe.yaml`, run it with `hgsp run recipe.yaml`.""",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run.run)
app.command()(plan.plan)
app.command(cls=FlagCommand)(prune.prune)
app.command("eval", cls=FlagCommand)(eval.evaluate)
app.command(cls=FlagCommand)(finetune.finetune)
app.command()(export.export)
app.command()(verify.verify)
app.command()(diagnose.diagnose)
app.command()(compare.compare)
app.command()(sweep.sweep)
app.add_typer(baseline.app)
app.add_typer(plugins.app)
app.add_typer(recipe.app)


def _version(wanted: bool) -> None:
    if wanted:
        from hgsp_core import __version__

        typer.echo(f"hgsp-core {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of `hgsp` itself."""


def main() -> None:
    """Entry point of `hgsp` and of `python -m hgsp_core`."""
    with readable_faults():
        app(prog_name="hgsp")
