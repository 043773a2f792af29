"""Models as the hub has them: every command on config.json files of every age, to the letter."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.surgery import mask_tensors
from hgsp_core.checkpoint.load import load_config, load_model
from hgsp_core.runtime.recipe import ModelPart
from hgsp_core.runtime.source import open_model
from tests.helpers.checkpoints import logits
from tests.helpers.command import ROOT
from tests.helpers.hub_models import CONFIGS, write_hub_model

TEXT = ROOT / "hgsp_core" / "texts" / "pydoc" / "evaluation.txt"
#: what llama.cpp cannot hold
NO_GGUF = {
    "llama-2-dynamic": "dynamic",
    "llama-longrope": "longrope",
    "yarn-llama-2-7b-128k": "yarn",
    "qwen2.5-7b-yarn": "yarn",
    "qwen3-8b": "supports only a tied head",
}
#: one of each family; the others take minutes
QUICK = ("llama-3.2-1b", "mistral-nemo", "qwen2.5-0.5b")
SETTINGS = {
    "calibrate": {"dataset": str(TEXT), "samples": 4, "seq_len": 32},
    "evaluate": [{"use": "perplexity", "with": {"datasets": [str(TEXT)], "seq_len": 32, "max_windows": 8}}],
}
WAYS = {
    "uniform": {
        "score": {"use": "magnitude"},
        "allocate": {"use": "uniform", "with": {"ratio": 0.15, "uniform": True}},
    },
    "layered": {"score": {"use": "taylor"}, "allocate": {"use": "hgsp", "with": {"ratio": 0.15, "temperature": 0}}},
}


def recipe(model: Path, way: str, **more) -> str:
    return json.dumps(
        {
            "version": 1,
            "model": {"path": str(model)},
            **SETTINGS,
            **WAYS[way],
            "reconstruct": {"use": "none"},
            "output": "x",
            **more,
        }
    )


def masked_original(model: Path, run: Path) -> torch.nn.Module:
    """The original with the units that the plan removed set to zero."""
    layout = open_model(ModelPart(path=str(model))).layout
    plan = Plan.from_json(json.loads((run / "plan.json").read_text()), layout)
    original = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    original.load_state_dict(dict(mask_tensors(original.state_dict().items(), layout, plan)))
    return original.float().eval()


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CONFIGS])
def test_every_command_takes_the_hubs_config_and_gives_the_masked_original(said, tmp_path, name):
    model = write_hub_model(name, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    for way in WAYS:
        exports = [{"use": "huggingface"}] + ([] if name in NO_GGUF else [{"use": "gguf"}])
        (tmp_path / "r.yaml").write_text(recipe(model, way, export=exports))
        for command in (["plan", "r.yaml"], ["run", "r.yaml", "--quiet", "--output", way]):
            code, _, err = said(*command)
            assert code == 0, f"{way}: {err}"
        run = tmp_path / way
        pruned, config = load_model(run / "model")
        assert (config["model_type"] == "hgsp") == (way == "layered")
        assert not {"auto_map"} & config.keys() or way == "layered"
        ids = torch.arange(40).reshape(2, 20)
        expected = logits(masked_original(model, run), ids)
        torch.testing.assert_close(logits(pruned.float(), ids), expected, atol=1e-4, rtol=1e-4)
        code, out, err = said("verify", way)
        assert code == 0, out + err
        assert "FAULT" not in out, out + err
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before

    if name in NO_GGUF:
        code, _, err = said("export", "layered", "--to", "gguf", "--output", "gguf")
        assert code == 2, err
        assert NO_GGUF[name] in err, err
    code, _, err = said("eval", "layered", "--dense", model, "--dataset", TEXT, "--seq_len", 32, "--max_samples", 8)
    assert code == 0, err
    alpaca = [{"instruction": f"Say {i}", "output": f"It is {i}."} for i in range(8)]
    (tmp_path / "alpaca.json").write_text(json.dumps(alpaca))
    code, _, err = said("finetune", "layered", "--data_path", "alpaca.json", "--seq_len", 96, "--output_dir", "tuned",
                        "--num_epochs", 1, "--batch_size", 4, "--quiet")  # fmt: skip
    assert code == 0, err
    assert not load_model(tmp_path / "tuned" / "model")[1].keys() ^ config.keys()


@pytest.mark.parametrize(
    "name", ["llama-3.2-1b", "vicuna-16k-linear", "llama-2-dynamic", "yarn-llama-2-7b-128k", "llama-longrope"]
)
def test_old_and_new_names_of_the_rotary_settings_compute_the_same(tmp_path, name):
    old = write_hub_model(name, tmp_path / "old")
    new = shutil.copytree(old, tmp_path / "new")
    config = json.loads((new / "config.json").read_text())
    scaling = {k: v for k, v in config.pop("rope_scaling").items() if k != "type"} | {
        "rope_theta": config.pop("rope_theta", 10000.0)
    }
    scaling.setdefault("rope_type", json.loads((old / "config.json").read_text())["rope_scaling"].get("type"))
    config["rope_parameters"] = scaling
    (new / "config.json").write_text(json.dumps(config))
    assert load_config(old).rope_parameters["rope_type"] == load_config(new).rope_parameters["rope_type"]
    ids = torch.arange(120)[None]
    assert torch.equal(logits(load_model(old)[0], ids), logits(load_model(new)[0], ids))


def test_what_a_run_stores_is_the_type_that_config_json_names(said, tmp_path):
    model = write_hub_model("llama-3-8b", tmp_path / "model", dtype="bfloat16")  # both keys
    (tmp_path / "r.yaml").write_text(recipe(model, "layered"))
    for key in ("model.dtype=float32", "model.dtype=float16"):
        code, _, err = said("run", "r.yaml", "--quiet", "--set", key, "--output", key)
        assert code == 0, err
        config = json.loads((tmp_path / key / "model" / "config.json").read_text())
        stored = {
            str(t.dtype).removeprefix("torch.")
            for t in load_file(tmp_path / key / "model" / "model.safetensors").values()
        }
        assert {config["dtype"], config["torch_dtype"]} == stored == {key.partition("=")[2]}
