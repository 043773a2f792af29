"""What a user can name is documented."""

from pathlib import Path

import pytest

from hgsp_core.plugin import registry
from hgsp_core.plugin.method import HOOKS
from hgsp_core.run.recipe import Recipe, describe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def text(name):
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("hook", HOOKS.values())
def test_every_hook_is_documented_with_a_working_example(hook):
    from hgsp_core.plugin import hookspecs

    assert f"`{hook}`" in text("plugins.md")
    docstring = getattr(hookspecs, hook).__doc__
    example = docstring.split("Example:\n")[1]
    compile("\n".join(line.removeprefix("        ") for line in example.splitlines()), hook, "exec")
    assert "@hookimpl" in example
    assert f"def {hook}()" in example


@pytest.mark.parametrize(
    ("key", "description", "default"), list(describe(Recipe)), ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_recipe_key_is_documented(key, description, default):
    assert description, f"{key} has no description"
    assert any(line.startswith(f"| `{key}` |") and description in line for line in text("recipe.md").splitlines())


@pytest.mark.parametrize("entry", registry.installed().entries, ids=lambda e: f"{e.kind}-{e.name}")
def test_every_method_is_documented(entry):
    assert entry.method.summary
    where = text("recipe.md") if entry.kind == "dataset" else text("methods.md")
    assert f"`{entry.name}`" in where
    if entry.kind != "architecture":
        for name, field in entry.method.params.model_fields.items():
            assert field.description, f"{entry.name}.{name} has no description"
