"""The recipes that come with the repository: as their script makes them, one for every method of hgsp-core, all valid."""

import runpy

import pytest
import yaml
from command import ROOT
from typer.testing import CliRunner

from hgsp_core.cli import app
from hgsp_core.plugin import registry
from hgsp_core.run.recipe import parse_recipe, uses

RECIPES = ROOT / "recipes"
MADE = runpy.run_path(str(ROOT / "scripts" / "make_recipes.py"))


def test_the_recipes_are_what_their_script_makes():
    texts = MADE["recipes"]()
    there = {str(path.relative_to(RECIPES)) for model in MADE["MODELS"] for path in (RECIPES / model).iterdir()}
    assert there == set(texts)
    for path, text in texts.items():
        assert (RECIPES / path).read_text(encoding="utf-8") == text, f"{path}: run python scripts/make_recipes.py"


def test_every_recipe_of_the_repository_is_valid():
    files = [str(path) for path in [*RECIPES.glob("*.yaml"), *RECIPES.glob("*/*.yaml")] if path.parent.name != "sweeps"]
    done = CliRunner().invoke(app, ["recipe", "validate", *files])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count(": valid\n") == len(files) >= len(MADE["recipes"]())


@pytest.mark.parametrize("model", MADE["MODELS"])
def test_every_scorer_prior_allocator_and_reconstructor_of_the_core_has_a_recipe_for_the_model(model):
    recipes = [parse_recipe(path.read_text(encoding="utf-8"), str(path)) for path in (RECIPES / model).iterdir()]
    used = {(kind, use.use) for recipe in recipes for _, kind, use in uses(recipe)}
    wanted = {
        (entry.kind, entry.name)
        for entry in registry.installed().entries
        if entry.distribution == "hgsp-core" and entry.kind in ("scorer", "prior", "allocator", "reconstructor")
    }
    assert wanted - used == {("prior", "file")}  # measured before, by a run of one of the others


def test_all_share_the_calibration_the_ratio_and_the_measurement():
    recipes = [yaml.safe_load(text) for text in MADE["recipes"]().values()]
    for key in ("calibrate", "evaluate"):
        assert all(recipe[key] == recipes[0][key] for recipe in recipes)
    assert {recipe["allocate"]["with"]["ratio"] for recipe in recipes} == {0.2}
    assert {recipe["model"]["dtype"] for recipe in recipes} == {"bfloat16"}
    assert len({recipe["output"] for recipe in recipes}) == len(recipes)
