"""One rule for one question, whatever the command: which files are the weights, what a tensor is called, whether the head is tied."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from hgsp_core.checkpoint.fingerprint import fingerprint
from hgsp_core.checkpoint.load import load_model
from hgsp_core.checkpoint.read import INDEX, WEIGHTS, tensor_shapes
from hgsp_core.checkpoint.shards import read_tensors
from hgsp_core.checkpoint.write import write_checkpoint
from tests.helpers.checkpoints import logits
from tests.helpers.command import MODEL
from tests.helpers.hub_models import write_hub_model

TEXT = "The quick brown fox jumps over the lazy dog. " * 200
RECIPE = {
    "version": 1,
    "model": {"path": "model"},
    "calibrate": {"dataset": "text.txt", "samples": 4, "seq_len": 32},
    "score": {"use": "taylor"},
    "allocate": {"use": "uniform", "with": {"ratio": 0.15}},
    "reconstruct": {"use": "none"},
    "evaluate": [{"use": "perplexity", "with": {"datasets": ["text.txt"], "seq_len": 32, "max_windows": 4}}],
    "output": "out",
}
COMMANDS = {
    "plan": ("plan", "r.yaml"),
    "run": ("run", "r.yaml", "--quiet"),
    "eval": ("eval", "model", "--dataset", "text.txt", "--seq_len", "32", "--max_samples", "4"),
    "eval dense": ("eval", MODEL, "--dense", "model", "--dataset", "text.txt", "--seq_len", "32", "--max_samples", "4"),
    "finetune": ("finetune", "model", "--data_path", "records.json", "--output_dir", "out", "--num_epochs", "1", "--seq_len", "96",
                 "--batch_size", "4"),
    "export": ("export", "model", "--to", "huggingface", "--output", "out"),
    "gguf": ("export", "model", "--to", "gguf", "--output", "out"),
    "verify": ("verify", "model"),
}  # fmt: skip


def write_inputs(folder: Path) -> None:
    (folder / "r.yaml").write_text(json.dumps(RECIPE))
    (folder / "text.txt").write_text(TEXT)
    (folder / "records.json").write_text(
        json.dumps([{"instruction": f"Say {i}", "output": f"It is {i}."} for i in range(8)])
    )


@pytest.fixture
def folder(tmp_path):
    """A small model with a head of its own in `model`, and what the commands read."""
    write_hub_model("llama-3-8b", tmp_path / "model", torch_dtype="float32")
    write_inputs(tmp_path)
    return tmp_path


@pytest.fixture
def tied(tmp_path):
    """The same with the embedding as its head."""
    write_hub_model("llama-3.2-1b", tmp_path / "model", torch_dtype="float32")
    write_inputs(tmp_path)
    return tmp_path


def refuse_all(said, folder, message, commands=COMMANDS):
    """Every command says it, ends with 2 (verify: 1, a fault) and writes nothing."""
    before = sorted(path.name for path in folder.iterdir())
    for name in commands:
        code, out, err = said(*COMMANDS[name])
        assert code == (1 if name == "verify" else 2), f"{name}: {out}{err}"
        assert message in " ".join((out + err).split()), f"{name}: {out}{err}"
        assert "Traceback" not in err, name
        assert sorted(path.name for path in folder.iterdir()) == before, name


def take_all(said, folder, commands=COMMANDS):
    for name in commands:
        code, out, err = said(*COMMANDS[name])
        assert code == 0, f"{name}: {out}{err}"
        assert "FAULT" not in out, f"{name}: {out}{err}"
        shutil.rmtree(folder / "out", ignore_errors=True)


def change_tensors(model: Path, change) -> None:
    tensors = change(load_file(model / WEIGHTS))
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, model / WEIGHTS, metadata={"format": "pt"})


def change_config(model: Path, **changes) -> None:
    config = json.loads((model / "config.json").read_text()) | changes
    (model / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("part", ["_orig_mod.", "module.", "base_model.model."])
def test_the_prefix_of_a_wrapper_is_named_by_every_command(said, folder, part):
    change_tensors(folder / "model", lambda tensors: {part + name: tensor for name, tensor in tensors.items()})
    refuse_all(said, folder, f"has '{part}' in its name")


def test_a_wrapper_around_each_layer_is_named_too(said, folder):
    change_tensors(folder / "model", lambda t: {n.replace("self_attn", "_orig_mod.self_attn"): v for n, v in t.items()})
    refuse_all(said, folder, "has '_orig_mod.' in its name")


def test_names_without_the_prefix_of_the_language_model_are_named_by_every_command(said, tied):
    change_tensors(tied / "model", lambda tensors: {n.removeprefix("model."): v for n, v in tensors.items()})
    refuse_all(said, tied, "lack the prefix 'model.'")


def test_a_stored_copy_of_the_embedding_is_no_head_of_its_own(said, tied):
    change_tensors(tied / "model", lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]})
    take_all(said, tied)


def test_a_head_that_differs_from_the_embedding_it_is_tied_to_is_never_dropped(said, tied):
    change_tensors(
        tied / "model", lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}
    )
    refuse_all(said, tied, "tie_word_embeddings: true, but 'lm_head.weight' is stored and differs")
    change_config(tied / "model", tie_word_embeddings=False)
    take_all(said, tied, ("plan", "eval", "verify"))


def test_buffers_that_transformers_ignores_are_ignored_by_every_command(said, folder):
    change_tensors(folder / "model", lambda t: t | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    take_all(said, folder, ("plan", "eval", "finetune", "verify"))


def test_where_a_single_file_and_an_index_are_there_the_single_file_counts(folder):
    model = folder / "model"
    alone, ids = logits(load_model(model)[0]), fingerprint(model)
    shards = write_checkpoint(
        ((name, tensor + 1) for name, tensor in read_tensors(model)),
        {"model_type": "llama"},
        model,
        folder / "shards",
        50_000,
    )
    assert shards is None
    for path in (folder / "shards").glob("model*"):
        shutil.copy(path, model)
    assert (model / INDEX).is_file()
    assert fingerprint(model) == ids
    assert torch.equal(logits(load_model(model)[0]), alone)
    stored = load_file(model / WEIGHTS)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in read_tensors(model))
    (model / WEIGHTS).unlink()
    assert fingerprint(model) != ids
    assert not torch.equal(logits(load_model(model)[0]), alone)


def test_an_export_names_the_type_that_is_stored_whatever_the_original_named(said, folder):
    change_config(folder / "model", torch_dtype="float16")  # stored as float32
    take_all(said, folder, ("eval", "verify"))
    code, out, err = said(*COMMANDS["export"])
    assert code == 0, out + err
    config = json.loads((folder / "out" / "model" / "config.json").read_text())
    assert config["torch_dtype"] == "float32"
    assert "dtype" not in config
    assert logits(load_model(folder / "out" / "model")[0]).dtype == torch.float32


def test_a_bias_of_another_length_than_its_weight_is_refused_before_any_work(said, folder):
    shutil.rmtree(folder / "model")
    write_hub_model("qwen2.5-0.5b", folder / "model", torch_dtype="float32")
    name = "model.layers.0.self_attn.q_proj.bias"
    change_tensors(folder / "model", lambda tensors: tensors | {name: torch.cat([tensors[name], tensors[name][:1]])})
    refuse_all(said, folder, f"Tensor '{name}' has the shape", ("run", "export"))


@pytest.mark.parametrize("weights", ["resident", "streamed"])
def test_biases_that_config_json_and_the_files_do_not_agree_on_are_refused_before_any_work(said, folder, weights):
    run = ("run", "r.yaml", "--quiet", "--set", f"model.weights={weights}")
    change_config(folder / "model", attention_bias=True)
    code, _, err = said(*run)
    assert code == 2, err
    assert "has no weights for model.layers.0.self_attn.k_proj.bias" in " ".join(err.split()), err
    change_config(folder / "model", attention_bias=False)
    change_tensors(folder / "model", lambda t: t | {"model.layers.1.self_attn.q_proj.bias": torch.ones(64)})
    code, _, err = said(*run)
    assert code == 2, err
    assert "has no place for model.layers.1.self_attn.q_proj.bias" in " ".join(err.split()), err


def test_a_tensor_in_two_shards_is_refused(said, folder):
    model = folder / "model"
    write_checkpoint(
        read_tensors(model), json.loads((model / "config.json").read_text()), model, folder / "shards", 50_000
    )
    shutil.rmtree(model)
    (folder / "shards").rename(model)
    first, second = sorted(model.glob("*.safetensors"))[:2]
    doubled = load_file(first) | dict([next(iter(load_file(second).items()))])
    save_file(doubled, first, metadata={"format": "pt"})
    refuse_all(said, folder, "is in both")


def test_tensors_that_the_index_leaves_out_are_read_as_transformers_reads_them(folder):
    model = folder / "model"
    write_checkpoint(
        read_tensors(model), json.loads((model / "config.json").read_text()), model, folder / "shards", 50_000
    )
    whole = tensor_shapes(folder / "shards")
    index = json.loads((folder / "shards" / INDEX).read_text())
    by_shard = {}
    for name, shard in index["weight_map"].items():
        by_shard.setdefault(shard, name)
    index["weight_map"] = {name: shard for shard, name in by_shard.items()}  # one tensor a shard
    (folder / "shards" / INDEX).write_text(json.dumps(index))
    assert tensor_shapes(folder / "shards") == whole
    assert torch.equal(logits(load_model(folder / "shards")[0]), logits(load_model(model)[0]))


def test_what_is_no_language_model_is_named_for_what_it_is(said, folder):
    model = folder / "model"
    change_config(model, architectures=["LlamaForSequenceClassification"])
    refuse_all(said, folder, "LlamaForSequenceClassification is not a language model")
    change_config(model, architectures=["LLaMAForCausalLM"])
    (model / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refuse_all(said, folder, "holds an adapter (adapter_config.json), not a model. Merge it into its base model first")
    config = (model / "config.json").read_text()
    (model / "config.json").unlink()
    code, _out, err = said("verify", "model")
    assert code == 2
    assert "holds an adapter" in err
    (model / "config.json").write_text(config)
    (model / "adapter_config.json").unlink()
    (model / WEIGHTS).rename(model / "model-q4_0.gguf")
    refuse_all(said, folder, "is a GGUF model", [name for name in COMMANDS if name != "verify"])


def test_a_path_that_is_no_model_directory_is_named_for_what_it_is(said, folder):
    (folder / "x.gguf").write_bytes(b"GGUF")
    for given, message in (
        ("x.gguf", "'x.gguf' is a GGUF model"),
        ("text.txt", "'text.txt' is a file. Give a directory"),
        ("nowhere.gguf", "There is no model directory 'nowhere.gguf'"),
    ):
        for command in (("plan", "r.yaml", "--set", f"model.path={given}"), ("eval", given), ("finetune", given, "--output_dir", "out"),
                        ("export", given, "--to", "gguf", "--output", "out")):  # fmt: skip
            code, _out, err = said(*command)
            assert code == 2, (command, err)
            assert message in " ".join(err.split()), (command, err)
    cache = folder / "models--acme--x"
    shutil.copytree(folder / "model", cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    code, _, err = said("plan", "r.yaml", "--set", f"model.path={cache}")
    assert code == 2
    assert "is a folder of the hub's cache" in " ".join(err.split())
    assert "snapshots/abc" in err


def test_a_padding_id_outside_the_embedding_is_named_before_any_work(said, folder):
    change_config(folder / "model", pad_token_id=1024)
    refuse_all(said, folder, "pad_token_id is 1024, but the embedding has 1024 rows (ids 0 to 1023)")
    change_config(folder / "model", pad_token_id=-1)
    take_all(said, folder, ("run", "eval"))


def test_a_null_size_of_heads_is_the_derived_one_in_every_family(said, folder):
    shutil.rmtree(folder / "model")
    write_hub_model("qwen2.5-0.5b", folder / "model", torch_dtype="float32")
    expected = logits(load_model(folder / "model")[0])
    change_config(folder / "model", head_dim=None)
    assert torch.equal(logits(load_model(folder / "model")[0]), expected)
    take_all(said, folder, ("run", "gguf"))


def test_layers_with_a_sliding_window_but_no_window_are_refused(said, folder):
    shutil.rmtree(folder / "model")
    write_hub_model("qwen2.5-0.5b", folder / "model", torch_dtype="float32")
    change_config(folder / "model", layer_types=["full_attention"] * 3 + ["sliding_attention"])
    refuse_all(
        said,
        folder,
        "layer_types has sliding_attention, but sliding_window is not set",
        ("run", "eval", "finetune", "export"),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "a JSON object is needed"),
        ("{", "cannot be read"),
        ('{"max_new_tokens": -1}', "the values in generation_config.json"),
    ],
)
def test_generation_settings_that_transformers_stumbles_over_are_not_handed_on(said, folder, content, message):
    (folder / "model" / "generation_config.json").write_text(content)
    refuse_all(said, folder, message)


@pytest.fixture
def outside(folder):
    """A tokenizer with a token that the embedding has no row for."""
    path = folder / "model" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["<extra>"])
    tokenizer.save(str(path))
    return folder


def test_a_token_without_a_row_is_named_before_any_work(said, outside):
    take_all(said, outside, ("run", "eval", "finetune"))
    (outside / "marked.txt").write_text(TEXT + "<extra>" + TEXT)
    (outside / "marked.json").write_text(
        json.dumps([{"instruction": "Say <extra>", "output": f"It is {i}."} for i in range(8)])
    )
    for command in (
        ("run", "r.yaml", "--set", "calibrate.dataset=marked.txt", "--set", "calibrate.samples=64"),
        (
            "run",
            "r.yaml",
            "--set",
            "evaluate.0.with.datasets.0=marked.txt",
            "--set",
            "evaluate.0.with.max_windows=null",
        ),
        ("eval", "model", "--dataset", "marked.txt", "--seq_len", "32"),
        (
            "finetune",
            "model",
            "--data_path",
            "marked.json",
            "--output_dir",
            "out",
            "--seq_len",
            "96",
            "--batch_size",
            "4",
        ),
    ):
        code, _out, err = said(*command)
        told = " ".join(err.split())
        assert code == 2, err
        assert "has the token '<extra>', whose id is 1024, but the model's embedding has 1024 rows" in told, err
        assert "Sweep" not in err
        assert "Evaluate original" not in err
        assert not (outside / "out").exists()


def test_a_modeling_file_on_an_old_transformers_says_what_it_needs(tmp_path, monkeypatch):
    import importlib.util

    import transformers

    from hgsp_core.checkpoint import modeling_hgsp

    monkeypatch.setattr(transformers, "__version__", "4.57.1")
    spec = importlib.util.spec_from_file_location("shipped", modeling_hgsp.__file__)
    with pytest.raises(
        ImportError, match=r"needs transformers 5\.20 or later, this is 4\.57\.1: pip install -U transformers"
    ):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_ids_of_a_text_are_checked_against_the_rows():
    from hgsp_core.checkpoint.load import load_tokenizer
    from hgsp_core.data.errors import DataError
    from hgsp_core.data.run import require_rows

    tokenizer = load_tokenizer(MODEL)
    require_rows(np.array([[0, 5]]), 6, tokenizer, "x")
    require_rows(np.array([[0, 5]]), None, tokenizer, "x")
    require_rows(np.empty((0, 4), dtype=np.int64), 6, tokenizer, "x")
    with pytest.raises(DataError, match=r"The dataset 'x' has the token .*, whose id is 5, but .* 5 rows"):
        require_rows(np.array([[0, 5]]), 5, tokenizer, "x")
