"""`hgsp export`: another form of a checkpoint that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hgsp_core.cli.options import Json, Quiet
from hgsp_core.files.paths import expanded

Model = Annotated[
    Path,
    typer.Argument(
        parser=expanded,
        metavar="MODEL",
        help="A run directory, or a Hugging Face directory, pruned or not.",
        show_default=False,
    ),
]
Exporter = Annotated[
    str,
    typer.Option("--to", metavar="NAME", help="The exporter: gguf, huggingface, or a plugin's.", show_default=False),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A parameter of the exporter (hgsp plugins show NAME): --set type=q8_0. May be repeated.",
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", parser=expanded, metavar="DIR", help="Directory to write; must not exist.", show_default=False
    ),
]


def export(
    model: Model, to: Exporter, output: Output, settings: Settings = None, quiet: Quiet = False, as_json: Json = False
) -> None:
    """Write a checkpoint that was made earlier in another form, and check what was written in a fresh process.

    Example: `hgsp export results/first --to gguf --set type=q8_0 --output results/first-gguf`

    Reads the model, which is not changed.

    Writes the directory, which must not exist yet: in it the folder or file of the exporter, and `run.log`.
    """
    from hgsp_core.cli.console import terminal

    with terminal(quiet) as monitor:
        from hgsp_core.export.run import export_checkpoint

        result = export_checkpoint(model, to, settings or (), output, monitor)
    from hgsp_core.cli.show import output as stdout
    from hgsp_core.cli.show import print_json, print_lines

    if as_json:
        print_json(result)
        return
    print_lines(stdout(), "Note", result["notes"])
    print_lines(stdout(), "Result", result["exports"])
