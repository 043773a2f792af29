"""`hgsp verify`: is it still what was exported?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hgsp_core.cli.options import Json, Quiet, path_argument
from hgsp_core.cli.show import output, print_json

Directory = Annotated[Path, path_argument("DIR", "Directory of a model, of GGUF files or of a run.")]
_WORDS = {True: "ok", False: "FAULT", None: "not checked"}


def verify(directory: Directory, quiet: Quiet = False, as_json: Json = False) -> None:
    """Check an export: file checksums, config.json against the tensors, and the model's logits.

    Example: `hgsp verify results/first`

    Reads the directory and modifies nothing. For a run, checks everything it exported.

    Exit code 0 = intact, 1 = a fault was found, 2 = nothing to check.
    """
    from hgsp_core.cli.console import terminal

    with terminal(quiet) as monitor:
        from hgsp_core.export.verification import verify as check

        findings = check(directory, monitor)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            output().print(f"{_WORDS[finding.sound]:<12}{finding.place}: {finding.text}")
    if any(finding.sound is False for finding in findings):
        raise typer.Exit(1)
