"""A whole run on the trained model: its files, its numbers, what a second run does not repeat."""

import csv
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hgsp_core.checkpoint.load import load_model, load_tokenizer
from hgsp_core.engine.weights import Resident
from hgsp_core.errors import HgspError, NumericError
from hgsp_core.pipeline import forecast, run
from hgsp_core.repair.least_squares import LeastSquares
from hgsp_core.repair.least_squares_params import LeastSquaresParams
from hgsp_core.repair.sequential import repair_blocks
from hgsp_core.runtime.directory import run_directory
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.runtime.store import Store
from tests.helpers.command import ROOT
from tests.helpers.reports import documented_files

MODEL = ROOT / "models" / "pydoc-llama"
TEXT = f"""
model: {{path: {MODEL}}}
calibrate: {{dataset: pydoc, samples: 16, seq_len: 64}}
score: {{use: taylor}}
allocate: {{use: hgsp}}
reconstruct: {{use: none}}
evaluate: [{{use: perplexity, with: {{datasets: [pydoc], max_windows: 24}}}}]
"""


def decide(*arguments):
    return forecast(*arguments).decision


def recipe(output, *settings):
    return parse_recipe(TEXT, "recipe", [f"output={output}", *settings])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def store(folder):
    return Store(folder / "store")


@pytest.fixture(scope="module")
def first(folder, store):
    return run(recipe(folder / "first"), LogMonitor(), store)


def test_a_run_leaves_the_documented_files_and_nothing_else(first, folder):
    assert {p.name for p in (folder / "first").iterdir()} == documented_files()
    assert json.loads((folder / "first" / "report.json").read_text()) == json.loads(json.dumps(first))
    assert "Sweep: done" in (folder / "first" / "run.log").read_text()
    assert not [p for p in folder.iterdir() if p.name.endswith(".partial")]


@pytest.fixture(scope="module")
def untied(folder):
    """The demo model with a head of its own, which starts as the embedding."""
    shutil.copytree(MODEL, folder / "untied")
    tensors = load_file(MODEL / "model.safetensors")
    save_file(
        tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()},
        folder / "untied" / "model.safetensors",
    )
    config = json.loads((MODEL / "config.json").read_text())
    (folder / "untied" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return folder / "untied"


@pytest.mark.parametrize("weights", ["resident", "streamed"])
def test_a_head_of_its_own_is_repaired_in_the_checkpoint(untied, folder, store, weights):
    settings = [
        f"model.path={untied}",
        f"model.weights={weights}",
        "reconstruct.use=least-squares",
        "allocate.with.ratio=0.3",
    ]
    report = run(recipe(folder / weights, *settings), LogMonitor(), store)
    exported = load_file(folder / weights / "model" / "model.safetensors")
    decision, repaired = decide(recipe(folder / "no", *settings), LogMonitor(), store), {}
    source = Resident(load_model(untied, torch.float32, "cpu")[0], decision.source.layout)
    repair_blocks(
        source, decision.plan, LeastSquares(LeastSquaresParams()), decision.calibration.tokens, 4, repaired.update
    )
    head = repaired["lm_head.weight"]
    torch.testing.assert_close(exported["lm_head.weight"], head)
    assert not torch.equal(head, exported["model.embed_tokens.weight"])
    fixed = run(recipe(folder / f"{weights}-fixed", *settings, "reconstruct.with.readers=false"), LogMonitor(), store)
    assert report["after"]["perplexity"]["pydoc"] < fixed["after"]["perplexity"]["pydoc"]


def test_a_final_norm_with_nan_is_named_also_where_the_repair_meets_it_first(untied, folder):
    broken = shutil.copytree(untied, folder / "broken")
    tensors = load_file(untied / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, broken / "model.safetensors")
    settings = [f"model.path={broken}", "score.use=wanda", "reconstruct.use=least-squares", "evaluate=[]"]
    with pytest.raises(NumericError, match=r"'model.norm.weight' contains NaN"):
        run(recipe(folder / "no", *settings), LogMonitor(), Store(folder / "broken-store"))
    assert not (folder / "no").exists()


def test_the_report_holds_what_is_promised(first):
    assert first["calibration"].keys() == {"dataset", "samples", "seq_len", "seed", "tokens_sha256"}
    for side in ("before", "after"):
        assert {"parameters", "macs", "bytes", "perplexity"} <= first[side].keys()
        assert first[side]["perplexity"].keys() == {"pydoc"}
    assert first["timings"].keys() >= {"Calibrate", "Sweep", "Plan", "Cut", "Export"}
    assert first["peak_memory_bytes"] > 2**26
    assert first["versions"]["torch"]


def test_the_plan_the_weights_and_the_report_agree(first, folder):
    plan = json.loads((folder / "first" / "plan.json").read_text())
    assert plan["version"] == 1
    assert plan["model"]["model_type"] == "llama"
    assert len(plan["model"]["fingerprint"]) == 64
    weights = load_file(folder / "first" / "model" / "model.safetensors")
    assert sum(t.numel() for t in weights.values()) == plan["parameters"]["after"] == first["after"]["parameters"]
    original = load_file(MODEL / "model.safetensors")
    for layer in plan["layers"]:
        kept = layer["mlp"]["kept"]
        assert torch.equal(
            weights[f"model.layers.{layer['index']}.mlp.down_proj.weight"],
            original[f"model.layers.{layer['index']}.mlp.down_proj.weight"][:, kept],
        )
    budget = plan["parameters"]["before"] - plan["parameters"]["target"]
    removed = plan["parameters"]["before"] - plan["parameters"]["after"]
    assert 0 <= budget - removed < 3 * 192  # one MLP channel


def test_the_unit_table_lists_every_unit_once(first, folder):
    with (folder / "first" / "global_group_table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * (4 + 416)
    plan = json.loads((folder / "first" / "plan.json").read_text())
    for row in rows:
        kept = plan["layers"][int(row["layer"])][row["kind"]]["kept"]
        assert (int(row["index"]) in kept) == (row["kept"] == "1")


def test_perplexity_is_the_documented_one(first):
    """Against transformers' own loss, window by window."""
    model, _ = load_model(MODEL)
    tokenizer = load_tokenizer(MODEL)
    text = (ROOT / "hgsp_core" / "texts" / "pydoc" / "evaluation.txt").read_text().strip("\n")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    losses = []
    with torch.no_grad():
        for i in range(24):
            window = torch.tensor([ids[i * 128 : (i + 1) * 128]])
            losses.append(model(window, labels=window).loss.item())
    assert first["before"]["perplexity"]["pydoc"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)


def test_the_demo_model_is_trained(first):
    """Far below a unigram model of the same tokens, which is above 350 (models/pydoc-llama/README.md)."""
    assert first["before"]["perplexity"]["pydoc"] < 60


@pytest.mark.parametrize(
    "setting",
    ["allocate.with.ratio=0.4", "allocate.with.temperature=2", "normalize=[{use: log}]", "allocate={use: uniform}"],
)
def test_another_setting_of_the_plan_measures_nothing_again(first, folder, store, setting):
    decision = decide(recipe(folder / "no", setting), LogMonitor(), store)
    assert "calibration" in decision.reused
    assert len(decision.reused) == (3 if "uniform" in setting else 4)


@pytest.mark.parametrize(
    "setting", ["calibrate.seed=1", "calibrate.samples=17", "calibrate.seq_len=32", "model.dtype=bfloat16"]
)
def test_other_tokens_or_number_types_are_measured_anew(first, folder, store, setting):
    decision = decide(recipe(folder / "no", setting), LogMonitor(), Store(store.root))
    assert not [name for name in decision.reused if name.startswith("statistics")]


def test_a_changed_model_file_is_never_served_from_the_store(first, folder, store, tmp_path):
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(MODEL, copy)
    same = decide(recipe(folder / "no", f"model.path={copy}"), LogMonitor(), store)
    assert len(same.reused) == 4  # the name does not matter, the content does
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    changed = decide(recipe(folder / "no", f"model.path={copy}"), LogMonitor(), store)
    assert list(changed.reused) == ["calibration"]


def test_the_batch_size_never_changes_the_result(first, folder, tmp_path):
    a = decide(recipe(folder / "no"), LogMonitor(), Store(tmp_path / "a"))
    b = decide(recipe(folder / "no", "calibrate.batch_size=7"), LogMonitor(), Store(tmp_path / "b"))
    np.testing.assert_allclose(a.scores.importance, b.scores.importance, rtol=1e-4)
    assert a.calibration.sha256 == b.calibration.sha256


def test_a_forecast_is_what_the_run_then_gives_and_writes_nothing(first, folder, store):
    before = sorted(p.name for p in folder.iterdir())
    expected = forecast(recipe(folder / "first"), LogMonitor(), store)
    assert sorted(p.name for p in folder.iterdir()) == before
    for key in ("parameters", "macs", "kv_cache_bytes_per_token"):
        assert expected.after[key] == first["after"][key]
    assert expected.after["bytes"] == pytest.approx(first["after"]["bytes"], rel=1e-3)


def test_priors_of_a_run_can_be_loaded_again(first, folder, store):
    file = folder / "first" / "layer_importance.json"
    again = decide(recipe(folder / "no", f"prior={{use: file, with: {{path: {file}}}}}"), LogMonitor(), store)
    assert again.plan == decide(recipe(folder / "no"), LogMonitor(), store).plan
    short = folder / "short.json"
    short.write_text('{"layer": [1, 2]}')
    with pytest.raises(HgspError, match="2 numbers, but the model has 6 layers"):
        decide(recipe(folder / "no", f"prior={{use: file, with: {{path: {short}}}}}"), LogMonitor(), store)
    short.unlink()


def test_two_runs_of_a_recipe_are_byte_identical(first, folder, tmp_path):
    run(recipe(tmp_path / "again"), LogMonitor(), Store(tmp_path / "store"))
    for name in ("plan.json", "model/model.safetensors", "model/config.json", "global_group_table.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / "first" / name).read_bytes()


def test_a_second_run_of_the_same_output_is_refused_and_disturbs_nothing(tmp_path):
    with run_directory(tmp_path / "run") as directory:
        (directory / "half").write_text("done")
        with pytest.raises(HgspError, match="another run is writing"), run_directory(tmp_path / "run"):
            pass
        assert (directory / "half").read_text() == "done"
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["half", "run.log"]


def test_what_a_killed_run_left_is_replaced(tmp_path):
    (tmp_path / ".run.partial").mkdir()
    (tmp_path / ".run.partial" / "old").write_text("")
    with run_directory(tmp_path / "run"):
        pass
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["run.log"]


def test_a_failing_run_leaves_nothing(folder, store, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "hgsp_core.pipeline.write_run_files", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(OSError, match="No space left"):
        run(recipe(tmp_path / "deep" / "er" / "run"), LogMonitor(), store)
    assert list(tmp_path.iterdir()) == []


def test_the_peak_of_memory_is_that_of_the_process_and_not_of_the_one_that_started_it():
    child = (
        "from hgsp_core.runtime.session import peak_memory; "
        "before = peak_memory(); own = bytearray(2**27); print(before, peak_memory())"
    )
    parent = f"import subprocess, sys; ballast = b'x' * 2**29; print(subprocess.check_output([sys.executable, '-c', {child!r}], text=True))"
    found = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True).stdout
    before, after = map(int, found.split())
    assert before < 2**28
    assert 2**27 <= after - before < 2**28
