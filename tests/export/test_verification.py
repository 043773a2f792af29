"""What `hgsp verify` finds, and what exporters find before they say done."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hgsp_core.artifacts import Plan
from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.load import load_model
from hgsp_core.cli import app
from hgsp_core.engine.weights import Resident, Streamed
from hgsp_core.export import run as exports
from hgsp_core.export.errors import VerifyError
from hgsp_core.export.gguf.exporter import Gguf, GgufParams
from hgsp_core.export.huggingface import HuggingFace, HuggingFaceParams
from hgsp_core.export.reload import verify_streamed
from hgsp_core.export.verification import verify
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.source import checkpoint_layout
from tests.helpers.checkpoints import PLANS, logits, prune, tokens
from tests.helpers.command import MODEL, hgsp
from tests.helpers.gguf_models import small_tokenizer


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run directory with a sharded Hugging Face model and a GGUF file of it."""
    folder = tmp_path_factory.mktemp("exported")
    small_tokenizer().save_pretrained(folder)
    checkpoint = prune(folder, "llama", PLANS["everything"], max_shard_size=20_000).directory
    weights = Resident(load_model(checkpoint)[0], checkpoint_layout(checkpoint))
    run = folder / "run"
    run.mkdir()
    exporters = [HuggingFace(HuggingFaceParams()), Gguf(GgufParams(type="f32"))]
    written = exports.export(
        exporters, checkpoint, run, Plan.keep_all(weights.layout), weights, lambda done, total: None, lambda text: None
    )
    (run / "report.json").write_text(json.dumps({"exports": written}))
    return run


@pytest.fixture
def run(exported, tmp_path):
    """A copy to damage."""
    return shutil.copytree(exported, tmp_path / "run")


def faults(path):
    return [finding.text for finding in verify(path, LogMonitor()) if finding.sound is False]


def test_what_an_export_has_written_is_sound(exported):
    findings = verify(exported, LogMonitor())
    assert not [f for f in findings if f.sound is False]
    said = "\n".join(f"{f.place}: {f.text}" for f in findings)
    for expected in (
        r"model: checksums of \d+ file\(s\) are those that they were written with",
        r"model: config\.json and 25 tensors agree",
        r"model: the model loads and produces the logits of the export \(logits (0|\de-\d\d) of",
        r"gguf: checksums of 1 file\(s\)",
        r"gguf: model-f32\.gguf is intact: 34 tensors",
        r"gguf: model-f32\.gguf: (llama\.cpp loads it and produces the logits of the export|logits: llama-cpp-python is not installed)",
    ):
        assert re.search(expected, said), (expected, said)
    assert [f.text for f in verify(exported / "model", LogMonitor())] == [
        f.text for f in findings if f.place == "model"
    ]


def test_a_file_of_a_third_partys_exporter_is_not_checked_and_that_is_said(run):
    (run / "sizes.txt").write_text("1")
    (run / "report.json").write_text(json.dumps({"exports": ["sizes.txt"]}))
    (finding,) = verify(run, LogMonitor())
    assert finding.sound is None
    assert "no hgsp.json there" in finding.text


def _shards(run):
    return sorted((run / "model").glob("*.safetensors"))


def _flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def _edit_config(run):
    config = json.loads((run / "model" / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 123.0
    (run / "model" / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: _flip(_shards(run)[1], -7), r"model-00002-of-.*safetensors' was changed after it was written"),
        (lambda run: _shards(run)[2].unlink(), r"model-00003-of-.*safetensors' is missing"),
        (_edit_config, r"config\.json' has \d+ bytes, and was written with \d+"),
        (lambda run: _flip(run / "gguf" / "model-f32.gguf", -3), r"model-f32\.gguf' was changed after it was written"),
        (lambda run: shutil.rmtree(run / "model"), r"model' is missing"),
        (lambda run: (run / "model" / "hgsp.json").write_text("{"), r"hgsp\.json' cannot be read"),
    ],
    ids=[
        "a flipped bit",
        "a missing shard",
        "an edited config",
        "a flipped bit in GGUF",
        "no model",
        "a damaged record",
    ],
)
def test_damage_is_found_and_the_file_named(run, damage, message):
    damage(run)
    (fault,) = faults(run)
    assert re.search(message, fault), fault


def _without_record(run):
    (run / "model" / "hgsp.json").unlink()


def _change_config(run, change):
    _without_record(run)
    path = run / "model" / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def _change_tensors(run, change):
    _without_record(run)
    path = _shards(run)[-1]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda run: _change_config(run, lambda c: c["per_layer_config"]["1"].update(num_key_value_heads=1)),
            r"'model\.layers\.1\.self_attn\.k_proj\.weight' has the shape \(8, 32\), but config\.json implies \(4, 32\)",
        ),
        (
            lambda run: _change_config(run, lambda c: c["per_layer_config"]["1"].pop("skip")),
            r"has no weights for model\.layers\.1\.mlp\.down_proj\.weight, .* transformers would initialize",
        ),
        (
            lambda run: _change_config(run, lambda c: c["per_layer_config"]["2"].update(skip=["mlp"])),
            r"config\.json has no place for model\.layers\.2\.mlp\.down_proj\.weight",
        ),
        (
            lambda run: _change_tensors(run, lambda t: t.pop(sorted(t)[0])),
            r"safetensors' has no tensor",
        ),
        (
            lambda run: _change_tensors(run, lambda t: t[sorted(t)[0]].fill_(float("nan"))),
            r"not finite|NaN",
        ),
    ],
    ids=["other sizes", "a tensor too few", "a tensor too many", "a tensor missing in its shard", "NaN"],
)
def test_without_a_record_config_and_tensors_still_must_agree(run, damage, message):
    damage(run)
    findings = verify(run / "model", LogMonitor())
    assert findings[0].sound is None
    assert "no hgsp.json there" in findings[0].text
    (fault,) = [f.text for f in findings if f.sound is False]
    assert re.search(message, fault), fault


def test_other_answers_are_found(run):
    """As of a library that computes something else: files and shapes are as they were."""
    record = json.loads((run / "model" / "hgsp.json").read_text())
    record["logits"]["values"] = (np.array(record["logits"]["values"]) * 1.01).tolist()
    (run / "model" / "hgsp.json").write_text(json.dumps(record))
    assert "produces different logits than at export" in faults(run)[0]


def test_a_model_that_hgsp_did_not_write_is_checked_as_far_as_it_can_be():
    findings = verify(MODEL, LogMonitor())
    assert [f.sound for f in findings] == [None, True, True]


def test_a_directory_with_nothing_to_verify_is_the_users_mistake(tmp_path):
    with pytest.raises(VerifyError, match="contains nothing to verify"):
        verify(tmp_path, LogMonitor())


def test_a_fresh_process_that_streams_says_which_file_is_missing(tmp_path):
    directory = prune(tmp_path, "qwen2", PLANS["everything"], max_shard_size=20_000).directory
    reference = logits(load_model(directory)[0])
    next(directory.glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match=r"(?s)a fresh process cannot load it:.*model-00002.*is missing"):
        verify_streamed(directory, tokens(), reference, "qwen2")


def test_a_streamed_export_is_verified_in_a_fresh_process_and_gives_the_same_record(tmp_path, exported):
    checkpoint = exported / "model"
    layout = checkpoint_layout(checkpoint)
    weights = Streamed(checkpoint, layout, torch.float32)
    exports.export(
        [HuggingFace(HuggingFaceParams())], checkpoint, tmp_path, Plan.keep_all(layout), weights, lambda *a: None, print
    )
    there, here = (json.loads((folder / "model" / "hgsp.json").read_text()) for folder in (exported, tmp_path))
    assert there["logits"]["tokens"] == here["logits"]["tokens"]
    assert there["family"] == here["family"] == "llama"
    np.testing.assert_allclose(there["logits"]["values"], here["logits"]["values"], atol=1e-5)


def test_the_command_says_what_it_checked_and_ends_with_its_verdict(run):
    sound = CliRunner().invoke(app, ["verify", str(run)])
    assert sound.exit_code == 0, sound.output
    assert "ok          model: config.json and" in sound.stdout
    assert "FAULT" not in sound.stdout
    _flip(run / "gguf" / "model-f32.gguf", -3)
    faulty = CliRunner().invoke(app, ["verify", str(run / "gguf"), "--json"])
    assert faulty.exit_code == 1
    (finding,) = json.loads(faulty.stdout)
    assert finding["sound"] is False
    assert "model-f32.gguf' was changed" in finding["text"]
    (run.parent / "empty").mkdir()
    nothing = hgsp("verify", "empty", cwd=run.parent)
    assert nothing.returncode == 2
    assert "Error: 'empty' contains nothing to verify" in nothing.stderr
