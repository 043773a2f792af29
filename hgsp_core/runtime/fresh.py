"""Fresh Python processes, which import nothing from the directory that the user is in.

`python -m` and `python -c` put the current directory on the path, where a `torch.py` lying there would stand in for torch.
Python 3.11 has `-P` against that; another current directory holds in every version.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: as trusted as this package, and without modules: texts only
_NO_MODULES = Path(__file__).parents[1] / "texts"


def run_fresh(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` with these environment variables added. Paths among the arguments must be absolute."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=_NO_MODULES,
        env={**os.environ, "PYTHONPATH": _absolute_path(), **environment},
        capture_output=True,
        text=True,
    )


@contextmanager
def elsewhere() -> Iterator[None]:
    """This process in a directory without modules, for libraries that start Python processes themselves."""
    here = os.getcwd()
    os.chdir(_NO_MODULES)
    try:
        yield
    finally:
        os.chdir(here)


def _absolute_path() -> str:
    """PYTHONPATH with absolute entries. An empty entry would mean the current directory."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(os.path.abspath(entry) for entry in entries if entry)
