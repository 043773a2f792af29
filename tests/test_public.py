"""`import hgsp_core as hgsp`: the names that notebooks and plugins use."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hgsp_core as hgsp
from tests.helpers.command import MODEL

PERPLEXITY = hgsp.Use.model_validate(
    {"use": "perplexity", "with": {"datasets": ["pydoc"], "max_windows": 2, "seq_len": 32}}
)
STUB = Path(hgsp.__file__).with_suffix(".pyi")


def test_the_stub_tells_every_public_name_and_no_other():
    told = {
        alias.asname: (node.module, alias.name)
        for node in ast.parse(STUB.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(told) == set(hgsp.__all__)
    for name, (module, original) in told.items():
        assert original == name
        assert getattr(hgsp, name) is getattr(sys.modules[module], name)


def test_no_public_name_is_hidden_by_a_folder():
    code = "import hgsp_core.pipeline, hgsp_core as hgsp; print([n for n in hgsp.__all__ if type(getattr(hgsp, n)).__name__ == 'module'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("HGSP_CACHE", str(tmp_path / "store"))
    settings = {
        "model": {"path": str(MODEL)},
        "score": {"use": "magnitude"},
        "allocate": {"use": "uniform", "with": {"ratio": 0.1}},
        "reconstruct": {"use": "none"},
        "evaluate": [],
        "export": [{"use": "huggingface"}],
        "output": str(tmp_path / "out"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_run_from_python_returns_its_report_and_what_it_changes(recipe, tmp_path):
    report = hgsp.run(recipe, ratio=0.3, output=tmp_path / "thirty", settings={"calibrate.seed": 7})
    assert json.loads((tmp_path / "thirty" / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["recipe"]["allocate"]["with"]["ratio"] == 0.3
    assert report["recipe"]["calibrate"]["seed"] == 7
    assert report["after"]["parameters"] <= 0.701 * report["before"]["parameters"]
    model, tokenizer = hgsp.load(tmp_path / "thirty" / "model")
    assert sum(p.numel() for p in model.parameters()) == report["after"]["parameters"]
    assert tokenizer("def f")["input_ids"]
    found = hgsp.evaluate_checkpoint(tmp_path / "thirty", [PERPLEXITY])
    assert found["after"]["parameters"] == report["after"]["parameters"]
    assert found["after"]["perplexity"]["pydoc"] > 1


def test_a_plan_from_python_writes_nothing_beside_the_store(recipe, tmp_path):
    expected = hgsp.plan(str(recipe), ratio=0.3)
    assert expected.after["parameters"] <= 0.701 * expected.before["parameters"]
    assert {path.name for path in tmp_path.iterdir()} <= {"recipe.yaml", "store"}


def test_a_ratio_from_python_counts_instead_of_the_files(recipe):
    recipe.write_text(recipe.read_text().replace("ratio: 0.1", "ratio: 7"))
    found = hgsp.plan(recipe, ratio=0.3)
    assert 0.69 * found.before["parameters"] < found.after["parameters"] <= 0.701 * found.before["parameters"]
    with pytest.raises(hgsp.HgspError, match=r"allocate\.with\.ratio"):
        hgsp.plan(recipe)


def test_a_fault_is_told_as_on_the_command_line(recipe):
    with pytest.raises(hgsp.HgspError, match=r"allocate\.with\.ratio"):
        hgsp.run(recipe, ratio=1.5)
    with pytest.raises(hgsp.HgspError, match=r"no such recipe\. Did you mean 'recipe.yaml'"):
        hgsp.run(recipe.with_name("recipes.yaml"))
