"""Extreme pruning is found, explained and repaired by the very lines that the diagnosis suggests (R6, R7)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hgsp_core.allocate.contract import AllocateJob, Allocator
from hgsp_core.artifacts import Plan, Scores
from hgsp_core.artifacts.scales import Scales
from hgsp_core.checkpoint.load import load_tokenizer
from hgsp_core.pipeline import run
from hgsp_core.report.diagnosis import apply, diagnose, ratio, read_diagnosis
from hgsp_core.report.errors import DiagnosisError
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import Recipe, parse_recipe
from hgsp_core.runtime.store import Store
from hgsp_core.score.contract import NormalizeJob, Normalizer
from tests.helpers.allocate_models import small, spread_priors
from tests.helpers.architectures import tiny_model
from tests.helpers.command import MODEL, hgsp
from tests.helpers.reports import documented_files

LAYERS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("diagnosis")


@pytest.fixture(scope="module")
def model(folder):
    """A model in which layer 0 writes 3000 times as much as the others, and layers 2 to 4 less than they.

    The norms after it make of that: gradients of layer 0 that are thousands of times those of the others.
    """
    tokenizer = load_tokenizer(MODEL)
    network = tiny_model("llama", num_hidden_layers=LAYERS, vocab_size=len(tokenizer), num_key_value_heads=4)
    with torch.no_grad():
        for index, layer in enumerate(network.model.layers):
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight *= 3000 if index == 0 else 0.1 if index in (2, 3, 4) else 1
    network.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def recipe(model: Path, output: Path, *settings: str) -> Recipe:
    text = f"""
model: {{path: {model}}}
calibrate: {{dataset: pydoc, samples: 8, seq_len: 32}}
score: {{use: taylor}}
allocate: {{use: hgsp, with: {{ratio: 0.25, of: layers, temperature: 0}}}}
reconstruct: {{use: none}}
export: []
output: {output}
"""
    return parse_recipe(text, "recipe", settings)


@pytest.fixture(scope="module")
def extreme(model, folder):
    run(recipe(model, folder / "extreme"), LogMonitor(), Store(folder / "store"))
    return read_diagnosis(folder / "extreme")


def removed(diagnosis):
    return [layer["removed"] for layer in diagnosis["layers"]]


def test_gradients_of_very_different_scale_empty_the_early_layers_and_the_diagnosis_says_so(extreme):
    assert extreme["source"] == "gradients"
    assert extreme["mean_ratio"] > 1000
    assert extreme["norm_ratio"] > 1000
    means = [layer["mean"] for layer in extreme["layers"]]
    assert means[0] == max(means)
    assert extreme["mean_ratio"] == pytest.approx(max(means) / min(means))
    assert max(removed(extreme)[2:5]) > 0.5
    assert set(extreme["extreme_layers"]) >= {2, 3, 4}
    assert extreme["num_extreme_layers"] == sum(rate > 0.5 for rate in removed(extreme))
    found = {finding["kind"]: finding for finding in extreme["findings"]}
    assert list(found) == ["early-extreme", "many-extreme", "scale"]  # worst first
    assert [finding["severity"] for finding in found.values()] == ["critical", "high", "high"]
    assert set(found["early-extreme"]["layers"]) >= {2, 3, 4}
    assert found["scale"]["layers"][0] == 0
    assert "layer 2" in found["early-extreme"]["text"]
    assert not any(check["ok"] for check in extreme["checks"][:3])


def test_a_run_without_priors_and_exports_leaves_all_other_files(extreme, folder):
    files = {path.name for path in (folder / "extreme").iterdir()}
    assert files == documented_files() - {"layer_importance.json", "layer_importance.png", "model"}


def test_the_lines_of_every_finding_are_a_valid_recipe_and_the_same_as_its_options(extreme, model):
    given = recipe(model, "x")
    for finding in extreme["findings"]:
        repair = finding["repair"]
        merged = yaml.safe_load(given.to_yaml()) | yaml.safe_load(repair["recipe"])
        lines = parse_recipe(yaml.safe_dump(merged), "lines")
        assert lines == apply(given, repair["set"]) != given


def test_the_suggested_lines_repair_the_run(extreme, model, folder):
    repair = extreme["findings"][0]["repair"]
    assert repair["repairs"]
    assert all(finding["repair"] == repair for finding in extreme["findings"])
    run(recipe(model, folder / "repaired", *repair["set"]), LogMonitor(), Store(folder / "store"))
    after = read_diagnosis(folder / "repaired")
    assert max(removed(after)[2:5]) < 0.5
    assert after["num_extreme_layers"] < 3
    assert [finding["severity"] for finding in after["findings"]] == ["note"]  # the gradients are as they were
    # and what was foretold is what came
    assert repair["then"] == {
        "num_extreme_layers": after["num_extreme_layers"],
        "layers_2_to_4_lose_at_most": max(removed(after)[2:5]),
        "spread": after["spread"],
    }


def test_diagnose_prints_the_findings_and_their_lines(extreme, folder):
    done = hgsp("diagnose", "extreme", cwd=folder)
    assert done.returncode == 0
    assert done.stderr == ""
    for finding in extreme["findings"]:
        assert f"{finding['severity'].upper()}: {finding['title']}" in done.stdout
        assert finding["text"] in done.stdout
        assert all(line in done.stdout for line in finding["repair"]["recipe"].splitlines())
    assert done.stdout.index("CRITICAL") < done.stdout.index("HIGH")
    assert done.stdout.count("hgsp run extreme/recipe.yaml --set ") == 1
    assert done.stdout.count("The same recipe lines") == 2
    as_json = hgsp("diagnose", "extreme", "--json", cwd=folder)
    assert json.loads(as_json.stdout) == extreme


def test_a_run_that_is_none_is_one_message(extreme, folder):
    done = hgsp("diagnose", "extrem", cwd=folder)
    assert done.returncode == 2
    assert "no run directory 'extrem'. Did you mean 'extreme'?" in done.stderr
    with pytest.raises(DiagnosisError, match="not a finished run, or it was written by an older version"):
        read_diagnosis(folder / "model")
    (folder / "broken").mkdir()
    for content in ("{", "[]", "{}", "\0"):
        (folder / "broken" / "gradient_diagnosis.json").write_text(content)
        with pytest.raises(DiagnosisError, match="cannot be read as a diagnosis"):
            read_diagnosis(folder / "broken")


def test_a_method_without_gradients_is_diagnosed_by_its_scores(model, folder):
    run(recipe(model, folder / "magnitude", "score={use: magnitude}"), LogMonitor(), Store(folder / "store"))
    found = read_diagnosis(folder / "magnitude")
    assert found["source"] == "scores"
    assert "no gradients" in found["what"]
    assert found["mean_ratio"] == pytest.approx(
        max(x["mean"] for x in found["layers"]) / min(x["mean"] for x in found["layers"])
    )


# The rest needs no model: scores of layers whose scales are given, and the allocators themselves.


def scores_of(layout, scales):
    rng = np.random.default_rng(0)
    return Scores.of(
        layout,
        [
            {n: s * b.unit_cost * rng.lognormal(size=b.units) for n, b in layer.blocks.items()}
            for s, layer in zip(scales, layout.layers, strict=True)
        ],
    )


def diagnosed(scales, allocate, comparable=False):
    layout = small(layers=len(scales))
    scores, priors = scores_of(layout, scales), spread_priors(layout)
    given = Recipe(
        model={"path": "m"}, output="o", score={"use": "taylor"}, allocate=allocate, reconstruct={"use": "none"}
    )

    def replan(recipe):
        changed = scores
        for use in recipe.normalize:
            changed = use.build(Normalizer)(NormalizeJob(layout, changed))
        allocator = recipe.allocate.build(Allocator)
        return changed, allocator(AllocateJob(layout, changed, priors))

    allocated, plan = replan(given)
    return diagnose(given, layout, plan, allocated, Scales.of_scores(scores, len(layout.layers)), replan, comparable)


HGSP = {"use": "hgsp", "with": {"ratio": 0.25, "of": "layers", "temperature": 0}}


def test_an_even_run_has_no_findings():
    found = diagnosed([1] * 10, HGSP)
    assert found["findings"] == []
    assert found["num_extreme_layers"] == 0
    assert all(check["ok"] for check in found["checks"])


def test_the_scale_is_no_fault_of_an_allocation_that_does_not_rank_layers_together():
    found = diagnosed([5000] + [1] * 9, {"use": "uniform", "with": {"ratio": 0.25, "of": "layers"}})
    assert [(f["kind"], f["severity"], f["repair"]) for f in found["findings"]] == [("scale", "note", None)]


@pytest.mark.parametrize(("ratio", "severity"), [(300, "medium"), (5000, "high")])
def test_the_severity_grows_with_the_scale(ratio, severity):
    found = diagnosed([ratio] * 5 + [1] * 10, HGSP)
    scale = next(f for f in found["findings"] if f["kind"] == "scale")
    assert scale["severity"] == severity
    assert scale["repair"]["repairs"]


def test_layers_that_are_removed_whole_on_purpose_are_no_finding():
    found = diagnosed([1] * 10, {"use": "depth", "with": {"n_remove_layers": 3}})
    assert found["num_extreme_layers"] == 3
    assert found["findings"] == []


def test_a_ratio_that_no_balance_survives_is_lowered():
    found = diagnosed([1] * 6, {"use": "uniform", "with": {"ratio": 0.6, "of": "layers"}})
    assert [f["kind"] for f in found["findings"]] == ["early-extreme", "many-extreme"]
    repair = found["findings"][0]["repair"]
    assert repair["repairs"]
    assert repair["set"] == ["allocate.with.ratio=0.45"]


def test_a_repair_never_makes_more_layers_extreme():
    for seed_scales in ([1000, 1, 1, 1, 30, 1], [1] * 3 + [1e4] * 3, [10.0**i for i in range(8)]):
        found = diagnosed(seed_scales, HGSP)
        for finding in found["findings"]:
            if finding["repair"]:
                assert finding["repair"]["then"]["num_extreme_layers"] <= found["num_extreme_layers"]


def test_scores_in_nats_are_comparable_so_no_normalizer_is_suggested():
    found = diagnosed([1, 1, 1, 1] + [1000] * 4, HGSP, comparable=True)
    kinds = {f["kind"]: f for f in found["findings"]}
    assert kinds["scale"]["severity"] == "note"
    assert kinds["scale"]["repair"] is None
    repair = kinds["early-extreme"]["repair"]
    assert repair["set"] == ["allocate.with.limits.layer_max_rate=0.45"]
    assert repair["repairs"]
    assert repair["then"]["num_extreme_layers"] == 0


def test_ratios_of_layers_without_gradients():
    assert ratio(np.array([0.0, 0.0])) == 1
    assert ratio(np.array([0.0, 2.0])) == np.inf
    assert ratio(np.array([2.0, 8.0])) == 4
    layout = small(layers=4)
    scores = scores_of(layout, [0, 1, 1, 1])
    plan = Plan.keep_all(layout)
    given = Recipe(model={"path": "m"}, output="o", score={"use": "taylor"}, allocate=HGSP)
    found = diagnose(
        given, layout, plan, scores, Scales.of_scores(scores, len(layout.layers)), lambda recipe: (scores, plan)
    )
    assert found["mean_ratio"] == np.inf
    assert "infinitely many times" in found["findings"][0]["text"]
