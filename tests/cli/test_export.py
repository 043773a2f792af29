"""`hgsp export`: any exporter, on a checkpoint that was made earlier."""

import json
import shutil

import gguf
import pytest
from typer.testing import CliRunner

from hgsp_core.cli import app
from hgsp_core.export.errors import ExportError
from hgsp_core.export.gguf.errors import GgufError
from hgsp_core.export.run import export_checkpoint
from hgsp_core.pipeline import run
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.runtime.store import Store
from tests.helpers.checkpoints import PLANS, prune
from tests.helpers.command import MODEL, hgsp
from tests.helpers.gguf_models import small_tokenizer

#: as small as a real run can be
RECIPE = f"""
model: {{path: {MODEL}}}
score: {{use: magnitude}}
calibrate: {{dataset: pydoc, samples: 4, seq_len: 32}}
allocate: {{use: hgsp, with: {{ratio: 0.2, temperature: 0}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run `out`, where the exports happen."""
    path = tmp_path_factory.mktemp("exports")
    run(parse_recipe(RECIPE, "r", [f"output={path / 'out'}"]), LogMonitor(), Store(path / "store"))
    return path


def test_a_run_is_exported_as_gguf_and_verifies(folder, monkeypatch):
    monkeypatch.chdir(folder)
    arguments = ["export", "out", "--to", "gguf", "--set", "type=q8_0", "-o", "quantised", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["exports"] == ["quantised/gguf/model-q8_0.gguf"]
    assert any("tensors compared with the checkpoint" in note for note in result["notes"])
    reader = gguf.GGUFReader(folder / result["exports"][0])
    assert reader.get_field("general.architecture").contents() == "deci"
    assert len(reader.get_field("tokenizer.ggml.tokens").contents()) == 1024
    assert "Q8_0" in {tensor.tensor_type.name for tensor in reader.tensors}
    done = CliRunner().invoke(app, ["verify", "quantised/gguf"])
    assert done.exit_code == 0, done.output
    assert "model-q8_0.gguf is intact" in done.stdout, done.output
    again = hgsp("export", "out", "--to", "gguf", "-o", "quantised", cwd=folder)
    refused(again, "'quantised' exists and is not overwritten")


@pytest.mark.slow
def test_a_directory_is_exported_in_shards_and_by_a_third_partys_exporter(folder):
    arguments = ["--to", "huggingface", "--set", "max_shard_size=2000000", "-o", "shards"]
    done = hgsp("export", "out/model", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Result: shards/model" in done.stdout
    assert len(list((folder / "shards" / "model").glob("*.safetensors"))) > 2
    assert hgsp("verify", "shards/model", cwd=folder).returncode == 0

    done = hgsp("export", "out", "--to", "plan-only", "-o", "sizes", cwd=folder, plugins=["exports"])
    assert done.returncode == 0, done.stderr
    sizes = [eval(line) for line in (folder / "sizes" / "sizes.txt").read_text().splitlines()]
    plan = json.loads((folder / "out" / "plan.json").read_text())
    assert sizes == [{a: len(layer[a]["kept"]) for a in ("attention", "mlp")} for layer in plan["layers"]]


def refused(done, *messages):
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("Error: ") == 1
    assert "Traceback" not in done.stderr
    for message in messages:
        assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["out", "--to", "ggfu"], ["There is no exporter 'ggfu'. Did you mean 'gguf'?"]),
        (["out", "--to", "gguf", "--set", "type=q9"], ["export.0.with.type", "'q8_0'"]),
        (["out", "--to", "gguf", "--set", "typ=f32"], ["Did you mean 'type'?"]),
        (["nowhere", "--to", "gguf"], ["nowhere"]),
    ],
    ids=["exporter", "value", "key", "model"],
)
def test_what_a_user_gets_wrong_is_told_and_nothing_is_written(folder, arguments, messages):
    before = sorted(folder.iterdir())
    refused(hgsp("export", *arguments, "-o", "new", cwd=folder), *messages)
    assert sorted(folder.iterdir()) == before


def test_a_plan_of_another_model_is_refused(folder, tmp_path):
    swapped = shutil.copytree(folder / "out", tmp_path / "swapped")
    plan = json.loads((swapped / "plan.json").read_text())
    plan["layers"][2]["mlp"]["kept"].pop()
    (swapped / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ExportError, match=r"plan\.json' is for another model"):
        export_checkpoint(swapped, "gguf", [], tmp_path / "new", LogMonitor())
    assert not (tmp_path / "new").exists()


def test_what_gguf_cannot_hold_is_refused_before_the_weights_are_opened(tmp_path):
    small_tokenizer().save_pretrained(tmp_path)
    directory, monitor = prune(tmp_path, "qwen3", PLANS["sizes differ"]).directory, LogMonitor()
    with pytest.raises(GgufError, match=r"supports only a tied head.*uniform: true"):
        export_checkpoint(directory, "gguf", [], tmp_path / "new", monitor)
    assert not monitor.timings
    assert not (tmp_path / "new").exists()


def test_a_recipe_that_gguf_cannot_follow_is_refused_before_anything_is_measured(folder):
    shutil.copytree(MODEL, folder / "gelu")
    config = json.loads((folder / "gelu" / "config.json").read_text())
    (folder / "gelu" / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    settings = [f"model.path={folder / 'gelu'}", "export=[{use: gguf}]", f"output={folder / 'new'}"]
    monitor = LogMonitor()
    with pytest.raises(GgufError, match="hidden_act: 'gelu'"):
        run(parse_recipe(RECIPE, "r", settings), monitor, Store(folder / "store"))
    assert "Read model" in monitor.timings
    assert not {"Calibrate", "Load", "Sweep"} & set(monitor.timings)
    assert not (folder / "new").exists()
