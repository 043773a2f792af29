"""`hgsp sweep` at work, on random models with the demo model's tokenizer: real runs in processes of their own.

Most commands are called in this process, so that all of them fork their runs from one server.
"""

import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from hgsp_core.cli import app
from hgsp_core.sweeps.errors import GridError
from tests.helpers.command import MODEL, ROOT, hgsp

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
RATIOS = [0.2]
METHODS = [
    {"name": "gated", "set": {"allocate": {"use": "hgsp", "with": {"of": "layers"}}}},
    {"name": "even", "set": {"score.use": "wanda", "allocate": {"use": "uniform", "with": {"of": "layers"}}}},
]


def make_model(folder, seed):
    """A tiny model; another seed, other weights. Its tokenizer is its own too: `extra` is a key that nothing reads."""
    torch.manual_seed(seed)
    vocabulary = json.loads((MODEL / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(MODEL / name, folder)
    settings = json.loads((folder / TOKENIZER[1]).read_text())
    (folder / TOKENIZER[1]).write_text(json.dumps({**settings, "extra": seed}))
    return folder


def sweep_file(folder, models, **parts):
    """A sweep of two methods, in `folder`."""
    base = {
        "calibrate": {"dataset": "pydoc", "samples": 4, "seq_len": 16},
        "score": {"use": "taylor"},
        "evaluate": [{"use": "perplexity", "with": {"datasets": ["pydoc"], "seq_len": 16, "max_windows": 4}}],
        "export": [],
    }
    file = {
        "base": base,
        "variants": {"model": [{"name": m.name, "set": {"model.path": str(m)}} for m in models], "method": METHODS},
        "grid": {"allocate.with.ratio": RATIOS},
        "output": str(folder / "out"),
        **parts,
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(file, sort_keys=False))
    return path


def command(folder, *arguments):
    """`hgsp sweep` of the file in `folder`, with a store beside its output."""
    return CliRunner().invoke(app, ["sweep", str(folder / "sweep.yaml"), "--cache", str(folder / "store"), *arguments])


def reports(folder):
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted((folder / "out" / "runs").glob("*/report.json"))
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "here"
    path.mkdir()
    for seed in (1, 2):
        make_model(path / f"model-{seed}", seed)
    sweep_file(path, [path / "model-1", path / "model-2"])
    return path


@pytest.fixture(scope="module")
def forecast(folder):
    done = command(folder, "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    assert not (folder / "out").exists()
    assert not (folder / "store").exists()
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def swept(folder, forecast):
    done = command(folder, "--jobs", "2", "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def stored(folder, kind):
    return list((folder / "store" / kind).glob("*"))


def test_a_dry_run_tells_the_runs_and_what_they_share(forecast):
    assert len(forecast["runs"]) == 4
    assert {run["state"] for run in forecast["runs"]} == {"to run"}
    assert forecast["groups"] == 2
    assert forecast["measured"]["calibrations"] == {"needed": 2, "stored": 0}
    assert forecast["measured"]["sweeps"] == {"needed": 2, "stored": 0}


def test_what_runs_share_is_measured_once_for_all_of_them(folder, forecast, swept):
    assert len(swept["done"]) == 4
    assert not swept["failed"]
    assert len(stored(folder, "calibration")) == forecast["measured"]["calibrations"]["needed"] == 2
    assert len(stored(folder, "statistics")) == forecast["measured"]["statistics"]["needed"]
    assert len(stored(folder, "evaluation")) == 2  # each original once, not once a run
    for report in reports(folder).values():
        assert not {"Sweep", "Load", "Evaluate original"} & report["timings"].keys()
        assert {"calibration", "perplexity of the original"} <= set(report["reused"])


def test_a_run_of_a_sweep_is_what_its_recipe_gives_alone(folder, swept, tmp_path):
    name = "model-2_gated_ratio-0.2"
    recipe = folder / "out" / "runs" / name / "recipe.yaml"
    alone = hgsp("run", recipe, "--output", tmp_path / "alone", "--cache", tmp_path / "store", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    report = json.loads((tmp_path / "alone" / "report.json").read_text())
    of_sweep = reports(folder)[name]
    assert not report["reused"]
    assert of_sweep["calibration"] == report["calibration"]
    for side in ("before", "after"):
        assert of_sweep[side]["perplexity"] == pytest.approx(report[side]["perplexity"], rel=1e-5)
    plans = [
        json.loads((d / "plan.json").read_text())["layers"]
        for d in (tmp_path / "alone", folder / "out" / "runs" / name)
    ]
    assert plans[0] == plans[1]


def test_the_sweep_ends_in_a_comparison_as_page_tables_and_plots(folder, swept):
    files = {path.name for path in (folder / "out").iterdir()}
    assert files == {".lock", "sweep.yaml", "runs", "comparison.md", "comparison.csv", "comparison.html",
                     "parameters-perplexity.png", "time-perplexity.png"}  # fmt: skip
    page, table = (folder / "out" / "comparison.html").read_text(), (folder / "out" / "comparison.md").read_text()
    for name in reports(folder):
        assert name in page
        assert f"| {name} |" in table
    assert page.count('<svg class="plot"') == 4  # two models by parameters and by time
    assert [row["budget"] for row in swept["comparison"]["best"]] == ["0.2 of layers"] * 2
    compared = CliRunner().invoke(app, ["compare", str(folder / "out"), "--json"])
    assert json.loads(compared.stdout) == swept["comparison"]


def test_a_sweep_that_is_done_runs_nothing_again_and_goes_on_when_it_grows(folder, swept):
    before = {path: path.stat().st_mtime_ns for path in (folder / "out" / "runs").iterdir()}
    sweep_file(folder, [folder / "model-1", folder / "model-2"], grid={"allocate.with.ratio": [*RATIOS, 0.3]})
    result = json.loads(command(folder, "--json").stdout)
    assert (len(result["kept"]), len(result["done"])) == (4, 4)
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in before.items())
    assert len(stored(folder, "calibration")) == 2


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"grid": {"allocate.with.ratio": [0.3]}},
            "contains another sweep: its run 'model-1_even_ratio-0.2' is not part of this one",
        ),
        ({"base": {"calibrate": {"dataset": "pydoc", "samples": 5, "seq_len": 16}}}, "was made with"),
        ({"output": str(ROOT / "models")}, "exists and is not a sweep"),
    ],
)
def test_the_output_of_another_sweep_is_left_alone(folder, swept, parts, message):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "sweep.yaml"}
    sweep_file(
        folder, [folder / "model-1", folder / "model-2"], **{"grid": {"allocate.with.ratio": [*RATIOS, 0.3]}, **parts}
    )
    done = command(folder)
    assert isinstance(done.exception, GridError)
    assert message in str(done.exception)
    assert done.stdout == ""
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "sweep.yaml"} == before


def test_a_run_that_fails_is_reported_and_the_others_go_on(folder, tmp_path):
    sweep_file(tmp_path, [folder / "model-1"], grid={"allocate.with.ratio": [0.2, 0.999]})  # so much cannot be removed
    done = command(tmp_path, "--jobs", "2", "--json")
    assert done.exit_code == 1
    result = json.loads(done.stdout)
    assert set(result["done"]) == {"model-1_gated_ratio-0.2", "model-1_even_ratio-0.2"}
    assert set(result["failed"]) == {"model-1_gated_ratio-0.999", "model-1_even_ratio-0.999"}
    page = html.unescape((tmp_path / "out" / "comparison.html").read_text())
    for name, message in result["failed"].items():
        assert "allocate.with.ratio: 0.999 of the decoder layers' parameters cannot be removed" in message
        assert (tmp_path / "out" / "failed" / f"{name}.txt").read_text() == f"{message}\n"
        assert message in page
        assert f"Warning: {name} failed: {message}" in done.stderr
    assert {run.name for run in (tmp_path / "out" / "runs").iterdir()} == set(result["done"])


def test_a_model_that_is_not_there_stops_the_sweep_before_anything_is_written(folder, tmp_path):
    file = sweep_file(tmp_path, [folder / "model-1", tmp_path / "nowhere"])
    done = hgsp("sweep", file, cwd=tmp_path)
    assert done.returncode == 2
    assert "There is no model directory" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(folder, tmp_path):
    sweep_file(tmp_path, [folder / "model-1"], grid={"allocate.with.ratio": [0.1, 0.2, 0.3]})
    store = {"HGSP_CACHE": str(tmp_path / "store"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen([sys.executable, "-m", "hgsp_core", "sweep", "sweep.yaml"], cwd=tmp_path, env={**os.environ, **store},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    runs = tmp_path / "out" / "runs"
    deadline = time.monotonic() + 240
    while len(list(runs.glob("model-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    started.wait()
    there = {path.name for path in runs.glob("model-*")}
    assert 2 <= len(there) < 6
    done = hgsp("sweep", "sweep.yaml", "--json", "--cache", tmp_path / "store", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert there <= set(result["kept"])
    assert len(result["kept"]) + len(result["done"]) == 6
    assert len(list((tmp_path / "store" / "calibration").iterdir())) == 1
    assert not [path for path in runs.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_135_runs_cost_15_calibrations_and_15_sweeps(tmp_path):
    """Three models x three methods x fifteen settings, as recipes/sweeps/headline.yaml."""
    models = [make_model(tmp_path / f"model-{seed}", seed) for seed in (1, 2, 3)]
    grid = {"allocate.with.ratio": [0.1, 0.2, 0.3], "calibrate.seed": [0, 1, 2, 3, 4]}
    third = {"name": "layerwise", "set": {"allocate": {"use": "layerwise", "with": {"of": "layers"}}}}
    variants = {"model": [{"name": m.name, "set": {"model.path": str(m)}} for m in models], "method": [*METHODS, third]}
    file = sweep_file(tmp_path, models, variants=variants, grid=grid)
    done = subprocess.run([sys.executable, "-m", "hgsp_core", "sweep", str(file), "--jobs", "2", "--json", "--cache", tmp_path / "store"],
                          cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["done"]) == 135
    assert len(list((tmp_path / "store" / "calibration").iterdir())) == 15
    assert len(list((tmp_path / "store" / "evaluation").iterdir())) == 3
    assert done.stderr.count("measure group") == 15
    assert all("Sweep" not in report["timings"] for report in reports(tmp_path).values())


@pytest.mark.slow
def test_a_ray_cluster_of_two_workers_gives_the_same_comparison(folder, swept, tmp_path):
    import ray

    sweep_file(tmp_path, [folder / "model-1"])
    address = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False).address_info["gcs_address"]
    try:
        done = hgsp("sweep", "sweep.yaml", "--ray", address, "--json", "--cache", tmp_path / "store", cwd=tmp_path)
    finally:
        ray.shutdown()
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["done"]) == 2
    assert len(list((tmp_path / "store" / "calibration").iterdir())) == 1
    ours, theirs = reports(tmp_path), reports(folder)
    for name, report in ours.items():
        assert "Sweep" not in report["timings"]
        assert report["after"]["perplexity"] == pytest.approx(theirs[name]["after"]["perplexity"], rel=1e-5)


def test_a_cluster_that_does_not_answer_is_a_readable_error(folder, tmp_path):
    sweep_file(tmp_path, [folder / "model-1"])
    done = command(tmp_path, "--ray", "nonsense")
    assert isinstance(done.exception, GridError)
    assert "--ray nonsense: no Ray cluster can be reached there" in str(done.exception)
