"""Which part may know which: the arrows of docs/architecture.md, held against the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hgsp_core"
FILES = sorted(PACKAGE.rglob("*.py"))

#: lower may not import higher
RANK = {
    "types": 0,
    "sweep": 1,
    "surgery": 1,
    "checkpoint": 1,
    "report": 1,
    "compare": 1,
    "pipeline": 2,
    "grid": 3,
    "cli": 4,
}


def imports(path: Path) -> set[str]:
    """Modules of hgsp_core that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == "hgsp_core"}


def part(module: str) -> str:
    return ([*module.split("."), ""])[1]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    own = part(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imports(path):
        other = part(module)
        if own != "builtin":
            assert other != "builtin", f"{path} imports {module}: only entry points may lead to builtin/"
        if own in RANK and other in RANK:
            assert RANK[other] <= RANK[own], f"{path} ({own}) imports {module}"


def test_methods_name_no_architecture_and_architectures_no_method():
    families = ("llama", "mistral", "qwen")
    for path in (PACKAGE / "builtin").glob("*.py"):
        code = ast.unparse(_without_docstrings(ast.parse(path.read_text()))).lower()
        assert not any(family in code for family in families), path
    for plugin in (ROOT / "plugins").glob("hgsp_*/hgsp_*/__init__.py"):
        assert imports(plugin) <= {
            "hgsp_core",
            *(f"hgsp_core.{n}" for n in ("Architecture", "Axis", "Slice", "hookimpl")),
        }


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
