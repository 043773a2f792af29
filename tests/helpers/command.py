"""`hgsp` as a user runs it: a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "pydoc-llama"
PLUGINS = ROOT / "tests" / "helpers" / "plugins"


def hgsp(*arguments, cwd, plugins=(), **env) -> subprocess.CompletedProcess:
    """Run `hgsp` in `cwd` with these folders of tests/helpers/plugins installed. The store is beside `cwd`, not in it."""
    paths = [str(ROOT), *(str(PLUGINS / name) for name in plugins)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    environment |= {"HGSP_CACHE": str(Path(cwd).parent / f"{Path(cwd).name}-store"), "OMP_NUM_THREADS": "2", **env}
    command = [sys.executable, "-m", "hgsp_core", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def at(recipe, key):
    """The value of a dotted key."""
    for part in key.split("."):
        recipe = recipe[int(part)] if isinstance(recipe, list) else recipe[part]
    return recipe
