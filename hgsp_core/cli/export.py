"""`hgsp export`: another form of an existing checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hgsp_core.cli.options import Json, Quiet, path_argument, path_option, set_option
from hgsp_core.cli.show import output as stdout
from hgsp_core.cli.show import print_json, print_lines

Model = Annotated[Path, path_argument("MODEL", "Run directory or Hugging Face directory, pruned or not.")]
Exporter = Annotated[
    str,
    typer.Option("--to", metavar="NAME", help="The exporter: gguf, huggingface, or a plugin's.", show_default=False),
]
Settings = Annotated[list[str] | None, set_option("Set a parameter (hgsp plugins show NAME): --set type=q8_0.")]
Output = Annotated[Path, path_option("--output", "-o", metavar="DIR", help="Directory to write; must not exist.")]


def export(
    model: Model, to: Exporter, output: Output, settings: Settings = None, quiet: Quiet = False, as_json: Json = False
) -> None:
    """Export an existing checkpoint to another format and check the result in a fresh process.

    Example: `hgsp export results/first --to gguf --set type=q8_0 --output results/first-gguf`

    Reads the model, which is not modified.

    Writes the directory, which must not exist: the exporter's folder or file, and `run.log`.
    """
    from hgsp_core.cli.console import terminal

    with terminal(quiet) as monitor:
        from hgsp_core.export.run import export_checkpoint

        result = export_checkpoint(model, to, settings or (), output, monitor)
    if as_json:
        print_json(result)
        return
    print_lines(stdout(), "Note", result["notes"])
    print_lines(stdout(), "Result", result["exports"])
