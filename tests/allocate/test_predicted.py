"""The KL divergence that scores in nats predict: the sum over what goes, and near what is measured."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from hgsp_core import plan, run
from hgsp_core.allocate.run import FAR
from hgsp_core.artifacts import Plan, Scores
from hgsp_core.cli import app
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.runtime.store import Store
from tests.helpers.allocate_models import small
from tests.helpers.command import ROOT
from tests.helpers.told import Told

MODEL = ROOT / "models" / "pydoc-llama"
RECIPE = f"""
model: {{path: {MODEL}}}
calibrate: {{dataset: pydoc, samples: 64}}
score: {{use: curvature}}
allocate: {{with: {{ratio: 0.2, of: layers}}}}
reconstruct: {{use: none}}
export: []
output: nowhere
"""


def test_what_a_plan_removes_is_the_importance_of_its_units_and_of_its_query_heads():
    layout = small()
    generator = np.random.default_rng(0)
    importance = []
    for layer in layout.layers:
        importance.append({axis: generator.random(b.units) for axis, b in layer.blocks.items()})
        for axis, b in layer.blocks.items():
            if b.heads > 1:
                parts = generator.dirichlet(np.ones(b.heads + 1), b.units)[:, 1:]
                importance[-1][f"{axis}.heads"] = importance[-1][axis][:, None] * parts
    scores = Scores.of(layout, importance)
    assert scores.removed(Plan.keep_all(layout)) == pytest.approx(0)
    kept = {(b.layer, b.axis.name): range(b.units) for b in layout.blocks()}
    kept[0, "attention"], kept[1, "mlp"] = [1], []
    expected = importance[0]["attention"].sum() - importance[0]["attention"][1] + importance[1]["mlp"].sum()
    assert scores.removed(Plan.of(layout, kept, 1)) == pytest.approx(expected)
    fewer = Plan.of(layout, kept, 1, heads={(0, "attention"): {1: [0]}})
    assert scores.removed(fewer) == pytest.approx(expected + importance[0]["attention.heads"][1, 1:].sum())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.35, 0.5])
def test_the_predicted_divergence_is_near_the_measured_one_on_windows_that_were_not_seen(ratio, store, tmp_path):
    settings = {"reconstruct": {"use": "least-squares"}, "export": [{"use": "huggingface"}]}
    report = run(parse_recipe(RECIPE, "test"), store=store, ratio=ratio, output=tmp_path / "out", settings=settings)
    assert 0.5 < report["predicted_kl"] / measured(tmp_path / "out" / "model") < 2
    assert not any("Warning" in note for note in report["notes"])


@torch.no_grad()
def measured(pruned):
    """KL(dense || pruned) in nats a token, by transformers alone."""
    dense, smaller = (AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in (MODEL, pruned))
    tokens = torch.tensor(fresh())
    p, q = (model(tokens).logits[:, :-1].double().log_softmax(-1) for model in (dense, smaller))
    return float((p.exp() * (p - q)).sum(-1).mean())


def fresh():
    text = "\n".join(path.read_text() for path in sorted((ROOT / "hgsp_core" / "texts" / "pydoc").glob("*.txt")))
    ids = AutoTokenizer.from_pretrained(MODEL)(text[-60_000:]).input_ids
    return np.array(ids[: 16 * 128]).reshape(16, 128)


def test_a_plan_that_leaves_little_of_the_model_is_warned_of_before_it_is_cut(store):
    monitor = Told()
    found = plan(parse_recipe(RECIPE, "test"), monitor, store, ratio=0.9).decision
    assert found.predicted_kl > FAR
    (warning,) = (text for text in monitor.said if text.startswith("Warning"))
    assert "allocate.with.ratio (0.9)" in warning
    assert warning in found.plan.notes


def test_nothing_is_predicted_by_scores_that_are_no_nats(store):
    recipe = parse_recipe(RECIPE, "test")
    assert plan(recipe, store=store, settings={"score": {"use": "output"}}).decision.predicted_kl is None


@pytest.mark.parametrize(("ratio", "steps"), [(0.25, 1), (0.26, 2), (0.5, 2), (0.6, 3)])
def test_auto_measures_the_model_again_for_each_quarter_where_scores_are_nats(ratio, steps, store):
    recipe = parse_recipe(RECIPE, "test")
    found = plan(recipe, store=store, ratio=ratio).decision
    assert found.plan == plan(recipe, store=store, ratio=ratio, settings={"iterative_steps": steps}).decision.plan
    others = plan(recipe, store=store, ratio=ratio, settings={"iterative_steps": steps + 1}).decision
    assert others.predicted_kl != found.predicted_kl
    output = {"score": {"use": "output"}}
    once, twice = (
        plan(recipe, store=store, ratio=ratio, settings={**output, "iterative_steps": n}).decision.plan for n in (1, 2)
    )
    assert plan(recipe, store=store, ratio=ratio, settings=output).decision.plan == once != twice


def test_what_several_steps_predict_adds_up(store):
    recipe = parse_recipe(RECIPE, "test")
    first = plan(recipe, store=store, ratio=0.2).decision
    both = plan(recipe, store=store, ratio=0.4, settings={"iterative_steps": 2}).decision
    assert both.predicted_kl == pytest.approx(first.predicted_kl + both.scores.last(first.plan).removed(both.plan))


def test_plan_prints_the_prediction_and_gives_it_to_programs(store, tmp_path, monkeypatch):
    monkeypatch.setenv("HGSP_CACHE", str(store.root))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    printed = CliRunner().invoke(app, ["plan", str(recipe), "--quiet"]).output
    kl = json.loads(CliRunner().invoke(app, ["plan", str(recipe), "--quiet", "--json"]).stdout)["predicted_kl"]
    assert f"Predicted: KL divergence {kl:.3f} nats per token" in printed
    assert f"perplexity × {math.exp(kl):.2f}" in printed
