"""Which part may know which: the arrows of docs/architecture.md, held against the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hgsp_core
from tests.helpers.command import ROOT

PACKAGE = ROOT / "hgsp_core"
FILES = sorted(PACKAGE.rglob("*.py"))

#: floors, from the ground up: what stands on one may import what stands below it, and nothing else but its own folder
FLOORS = (
    "errors",
    "files model",
    "artifacts plugin",
    "checkpoint",
    "engine",
    "score runtime",
    "data report repair",
    "evaluate allocate",
    "export",
    "recover",
    "pipeline",
    "sweeps testing builtin",
    "cli",
    "__main__",
)
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms.split()}


def imports(path: Path) -> set[str]:
    """Modules of hgsp_core that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    public = {f"hgsp_core.{name}": f"hgsp_core.{home}" for name, home in hgsp_core._PUBLIC.items()}
    return {public.get(name, name) for name in found if name.split(".")[0] == "hgsp_core"}


def part(module: str) -> str:
    return ([*module.split("."), ""])[1]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    own = part(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if own == "__init__":
        return  # the face of the package: names to be found on first use
    for module in imports(path) - {"hgsp_core"}:
        other = part(module)
        if other == own or other not in FLOOR:
            assert other == own or module in ("hgsp_core.__version__",), f"{path}: '{other}' has no floor"
            continue
        assert FLOOR[other] < FLOOR[own], f"{path} ({own}) imports {module}"
        assert other != "builtin", f"{path} imports {module}: only entry points may lead there"


def test_every_folder_and_file_has_a_floor():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__"} == set(FLOOR)


def test_optional_members_of_methods_are_declared_not_probed():
    probed = {path.relative_to(PACKAGE).as_posix() for path in FILES if "hasattr(" in path.read_text(encoding="utf-8")}
    assert probed <= {
        "checkpoint/modeling_hgsp.py",  # transformers' modules
        "evaluate/harness_tasks.py",  # lm-eval's tasks
    }


def test_methods_name_no_architecture_and_architectures_no_method():
    families = ("llama", "mistral", "qwen")
    for path in FILES:
        if path.parent.name not in ("score", "allocate", "repair", "recover", "data"):
            continue
        code = ast.unparse(_without_docstrings(ast.parse(path.read_text()))).lower()
        assert not any(family in code for family in families), path
    for plugin in (ROOT / "plugins").glob("hgsp_*/hgsp_*/__init__.py"):
        assert imports(plugin) <= {"hgsp_core", "hgsp_core.model.architecture", "hgsp_core.plugin.hookspecs"}


def _without_docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:] or [ast.Pass()]
    return tree


def test_declaring_every_plugin_imports_no_torch():
    code = (
        "import sys; from hgsp_core.plugin import registry; r = registry.installed(); "
        "assert r.entries and not r.broken, r.broken; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
