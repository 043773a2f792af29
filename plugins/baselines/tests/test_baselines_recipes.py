"""Every recipe of recipes/baselines is valid, and runs on the trained demo model as it stands."""

import json
import math
from pathlib import Path

import pytest

from hgsp_core.pipeline import run
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import load_recipe
from hgsp_core.runtime.store import Store

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes" / "baselines").glob("*.yaml"))
#: what a method that removes whole layers may miss: less than one of six
SHORTFALL = {"shortgpt": 1 / 6}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_is_valid_and_writes_where_its_name_says(path):
    recipe = load_recipe(path)
    assert recipe.output == f"results/baselines/{path.stem}"
    assert recipe.evaluate


def test_there_is_a_recipe_for_every_baseline():
    names = {"magnitude", "wanda", "wanda_sp", "flap", "llm_pruner", "slimgpt", "shortgpt", "torch_pruning"}
    assert {path.stem for path in RECIPES} == names


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_runs_on_the_demo_model(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(path, [f"output={tmp_path / 'run'}", "evaluate.0.with.max_windows=40"])
    report = run(recipe, LogMonitor(), Store(tmp_path / "store"))
    perplexity = report["after"]["perplexity"]["pydoc"]
    assert report["before"]["perplexity"]["pydoc"] < perplexity < math.inf
    before, after = report["before"]["parameters"], report["after"]["parameters"]
    layers = before - 1024 * 192 - 192  # the tied embedding and the final norm stay
    assert 0 <= 0.2 - (before - after) / layers < SHORTFALL.get(path.stem, 0.001)
    notes = " ".join(json.loads((tmp_path / "run" / "report.json").read_text())["notes"])
    assert ("has no bias" in notes) == (path.stem == "flap")
    assert ("Attention is not pruned" in notes) == (path.stem == "torch_pruning")
