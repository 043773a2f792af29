"""Fresh Python processes, which import nothing from the directory that the user is in.

`python -m` and `python -c` put the current directory on the path, where a `torch.py` lying there would stand in for torch.
Python 3.11 has `-P` against that; an empty directory holds everywhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


def run_fresh(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` with these environment variables added. Paths among the arguments must be absolute."""
    with tempfile.TemporaryDirectory(prefix="hgsp-empty-") as empty:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=empty,
            env={**os.environ, "PYTHONPATH": _absolute_path(), **environment},
            capture_output=True,
            text=True,
        )


@contextmanager
def elsewhere() -> Iterator[None]:
    """This process in an empty directory, for libraries that start Python processes themselves."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="hgsp-empty-") as empty:
        os.chdir(empty)
        try:
            yield
        finally:
            os.chdir(here)


def _absolute_path() -> str:
    """PYTHONPATH as it is meant from here. An empty entry would mean the current directory, which nobody asked for."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(os.path.abspath(entry) for entry in entries if entry)
