"""The recipes that come with the repository: all valid; for each model a sweep over all methods, alike in all else."""

import pytest
from typer.testing import CliRunner

from hgsp_core.cli import app
from hgsp_core.plugin import registry
from hgsp_core.runtime.recipe import load_recipe, uses
from hgsp_core.sweeps.cells import load_grid
from tests.helpers.command import ROOT

RECIPES = ROOT / "recipes"
#: folder -> decoder layers
MODELS = {"llama-3-8b": 32, "qwen2.5-7b": 28, "mistral-7b-v0.3": 32}
KINDS = ("scorer", "prior", "allocator", "reconstructor")


def methods(model):
    """Method -> recipe of its run in the model's sweep."""
    return {cell.name.partition("_")[0]: cell.recipe for cell in load_grid(RECIPES / model / "methods.yaml").cells}


def test_every_recipe_and_every_sweep_of_the_repository_is_valid():
    files = [str(path) for path in RECIPES.rglob("*.yaml")]
    done = CliRunner().invoke(app, ["recipe", "validate", *files])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count(": valid") == len(files)
    assert done.stdout.count(": valid, a sweep of") == len(MODELS) + len(list((RECIPES / "sweeps").iterdir()))


@pytest.mark.parametrize("model", MODELS)
def test_a_models_sweep_has_every_method_of_the_core_and_of_the_baselines(model):
    used = {(kind, use.use) for recipe in methods(model).values() for _, kind, use in uses(recipe)}
    wanted = {
        (entry.kind, entry.name)
        for entry in registry.installed().entries
        if entry.distribution in ("hgsp-core", "hgsp-baselines") and entry.kind in KINDS
    }
    from_files = {("prior", "file"), ("allocator", "plan")}  # made before, by a run of one of the others
    assert wanted - used == from_files | {("scorer", "reap"), ("scorer", "frequency")}  # of experts, which these lack


@pytest.mark.parametrize("model", MODELS)
def test_the_runs_of_a_models_sweep_differ_in_their_method_alone(model):
    recipes = list(methods(model).values())
    default = load_recipe(RECIPES / model / "default.yaml")
    assert all(recipe.model == default.model for recipe in recipes)
    assert all(recipe.calibrate == default.calibrate for recipe in recipes)
    assert all(recipe.evaluate == default.evaluate for recipe in recipes)
    assert {recipe.allocate.with_["ratio"] for recipe in recipes} == {0.2}
    assert {recipe.export for recipe in recipes} == {()}


@pytest.mark.parametrize("model", MODELS)
def test_a_models_own_recipes_are_runs_of_its_sweep(model):
    own = {path.stem: load_recipe(path) for path in (RECIPES / model).glob("*.yaml") if path.stem != "methods"}
    assert set(own) == {"fast", "default", "best"}
    for name, recipe in own.items():
        assert recipe.output == f"results/{model}/{name}"
        run = methods(model)[name]
        assert recipe == run.model_copy(update={"output": recipe.output, "export": recipe.export})


def test_the_models_sweeps_are_the_same_but_for_the_model_and_the_number_of_its_layers():
    first, *others = (
        (RECIPES / model / "methods.yaml")
        .read_text(encoding="utf-8")
        .replace(load_recipe(RECIPES / model / "default.yaml").model.path, "PATH")
        .replace(f"layer_end: {layers - 2}", "layer_end: LAST")
        .replace(model, "MODEL")
        for model, layers in MODELS.items()
    )
    assert all(other == first for other in others)
