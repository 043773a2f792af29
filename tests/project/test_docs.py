"""What a user can name is documented."""

import inspect
import re
import sys

import pytest

import hgsp_core
from hgsp_core.plugin import registry
from hgsp_core.plugin.method import HOOKS
from hgsp_core.runtime.recipe import Recipe, describe
from hgsp_core.testing.trial import CONTRACTS
from tests.helpers.command import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("plugins/*/README.md")])
sys.path.insert(0, str(ROOT / "scripts"))
import make_methods_page  # noqa: E402

#: kind -> the parts that the docstring of each of its methods has, beside what the method does; "A or B": one of them at least
PARTS = {
    "scorer": ("Formula or Source", "Cost", "When"),
    "prior": ("Formula or Source", "Cost", "When"),
    "normalizer": ("Formula", "When"),
    "allocator": ("Formula or Source", "Cost", "When"),
    "reconstructor": ("Cost", "When"),
    "recoverer": ("Cost", "When"),
    "evaluator": ("Cost", "When"),
    "exporter": ("When",),
}
OWN_METHODS = [entry for kind in PARTS for entry in make_methods_page.own(kind)]


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


@pytest.mark.parametrize("kind", CONTRACTS)
def test_every_contract_is_documented_with_what_it_takes_and_gives(kind):
    contract = CONTRACTS[kind]
    row = next(line for line in text("plugins.md").splitlines() if line.startswith(f"| `{HOOKS[kind]}` |"))
    called = inspect.signature(contract.__call__)
    assert f"`{contract.__name__}`" in row
    assert f"`{called.parameters['job'].annotation}`" in row
    if called.return_annotation in hgsp_core.__all__:
        assert f"→ `{called.return_annotation}`" in row
    for name in (contract.__name__, called.parameters["job"].annotation):
        assert name in hgsp_core.__all__
    assert all(vars(contract)[name].__doc__ for name, value in vars(contract).items() if inspect.isfunction(value))


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


@pytest.mark.parametrize("entry", OWN_METHODS, ids=lambda e: f"{e.kind}-{e.name}")
def test_every_method_of_this_project_says_what_it_does_what_it_costs_and_when_to_use_it(entry):
    found = make_methods_page.parts(make_methods_page.implementation(entry).__doc__)
    assert "\n" not in found["What"], (
        "the docstring's first paragraph is one sentence or two; the rest belongs to a part"
    )
    missing = [part for part in PARTS[entry.kind] if not found.keys() & set(part.split(" or "))]
    assert not missing, f"the docstring of {entry.declared.target} lacks {missing}"


def test_the_page_of_methods_is_the_one_that_the_methods_make():
    fresh = text("methods.md") == make_methods_page.page()
    assert fresh, "docs/methods.md is out of date: run python scripts/make_methods_page.py"


@pytest.mark.parametrize("page", sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")))
def test_no_table_cell_is_longer_than_200_characters(page):
    rows = [line for line in text(page).splitlines() if line.startswith("|")]
    assert not [cell for row in rows for cell in re.split(r"(?<!\\)\|", row) if len(cell.strip()) > 200]


def anchors(page):
    """Headings as GitHub links to them: the second of a name is name-1."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
    names = [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings]
    return {f"{name}-{names[:i].count(name)}".removesuffix("-0") for i, name in enumerate(names)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_and_every_path_of_a_page_leads_somewhere(page):
    content = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", content):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link
    for path in re.findall(r"`((?:benchmarks|docs|hgsp_core|models|plugins|recipes|tests)/[\w./*-]+)`", content):
        pattern = re.sub(r"\b[A-Z]+\b", "*", path.rstrip("/"))  # recipes/MODEL/methods.yaml
        assert any(ROOT.glob(pattern)) or any(page.parent.glob(pattern)), path
