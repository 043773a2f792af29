"""Plans from files: applied as they are, and refused before anything is measured where they do not fit."""

import json

import pytest
import yaml

import hgsp_core as hgsp
from hgsp_core.artifacts.errors import PlanError
from tests.helpers.command import MODEL


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("HGSP_CACHE", str(tmp_path / "store"))
    return tmp_path / "store"


def recipe(tmp_path, allocate):
    text = {
        "model": {"path": str(MODEL)},
        "calibrate": {"dataset": "pydoc", "samples": 8, "seq_len": 16},
        "score": {"use": "magnitude"},
        "reconstruct": {"use": "none"},
        "allocate": allocate,
        "output": str(tmp_path / "run"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    return path


def planned(tmp_path, allocate):
    forecast = hgsp.plan(recipe(tmp_path, allocate))
    source, plan = forecast.decision.source, forecast.decision.plan
    return plan, plan.to_json(source.layout, source.name, source.fingerprint)


@pytest.fixture
def content(tmp_path):
    """plan.json of 30 % of the demo model."""
    return planned(tmp_path, {"use": "global", "with": {"ratio": 0.3}})[1]


def applied(tmp_path, content):
    (tmp_path / "plan.json").write_text(json.dumps(content), encoding="utf-8")
    return planned(tmp_path, {"use": "plan", "with": {"path": str(tmp_path / "plan.json")}})[0]


def test_a_plan_of_another_run_is_applied_as_it_is(tmp_path):
    plan, content = planned(tmp_path, {"use": "global", "with": {"ratio": 0.3}})
    again = applied(tmp_path, content)
    assert again.sha256 == plan.sha256
    assert (again.before, again.target) == (plan.before, plan.target)


def test_an_edited_plan_is_applied_as_edited(tmp_path, content):
    content["layers"][2]["mlp"]["kept"] = [1, 5, 7]
    content["layers"][3]["attention"]["kept"] = []
    plan = applied(tmp_path, content)
    assert plan.layers[2]["mlp"].kept == (1, 5, 7)
    assert not plan.layers[3]["attention"].kept


def test_the_run_of_an_applied_plan_cuts_what_it_says(tmp_path, content):
    content["layers"][2]["mlp"]["kept"] = [1, 5, 7]
    (tmp_path / "plan.json").write_text(json.dumps(content), encoding="utf-8")
    hgsp.run(recipe(tmp_path, {"use": "plan", "with": {"path": str(tmp_path / "plan.json")}}))
    model, _ = hgsp.load(tmp_path / "run" / "model")
    assert model.get_submodule("model.layers.2.mlp.up_proj").out_features == 3
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["layers"] == content["layers"]


def drop_a_layer(content):
    del content["layers"][0]


def change_the_units(content):
    content["layers"][1]["mlp"]["of"] = 10


def repeat_a_unit(content):
    content["layers"][1]["mlp"]["kept"] = [3, 3]


def lose_an_axis(content):
    del content["layers"][1]["mlp"]


def lose_the_layers(content):
    del content["layers"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_a_layer, "does not fit the model. plan.json is for another model: it has "),
        (change_the_units, "layer 1 mlp units"),
        (repeat_a_unit, "layer 1, mlp: 'kept' must be ascending indices"),
        (lose_an_axis, "cannot be read as a plan (KeyError: 'mlp')"),
        (lose_the_layers, "cannot be read as a plan (KeyError: 'layers')"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_before_anything_is_measured(tmp_path, content, store, change, message):
    change(content)
    before = sorted(store.rglob("*"))
    with pytest.raises(PlanError, match=r"allocate\.with\.path: '.*plan\.json'") as error:
        applied(tmp_path, content)
    assert message in str(error.value)
    assert sorted(store.rglob("*")) == before


@pytest.mark.parametrize("text", [None, "{", "[]", '{"layers": 3}'], ids=["missing", "cut off", "a list", "no layers"])
def test_a_file_that_is_no_plan_is_refused(tmp_path, text):
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(PlanError, match=r"allocate\.with\.path: '.*other\.json' cannot be read as a plan"):
        hgsp.plan(recipe(tmp_path, {"use": "plan", "with": {"path": str(path)}}))
