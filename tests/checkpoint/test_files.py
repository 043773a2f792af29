"""What is written to and read from a checkpoint directory, and what is said about a directory that is not one."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.fingerprint import fingerprint
from hgsp_core.checkpoint.load import load_model
from hgsp_core.checkpoint.read import (
    read_config,
    stored_dtype,
    tensor_files,
    tensor_shapes,
)
from hgsp_core.checkpoint.shards import Shards, read_tensors, require_range
from hgsp_core.checkpoint.write import write_checkpoint
from hgsp_core.errors import NumericError
from tests.helpers.checkpoints import PLANS, logits, prune

CONFIG = {"model_type": "llama"}


@pytest.fixture
def checkpoint(tmp_path):
    return prune(tmp_path, "llama", PLANS["sizes differ"]).directory


@pytest.fixture
def sharded(tmp_path):
    return prune(tmp_path, "llama", PLANS["sizes differ"], max_shard_size=20_000).directory


def test_sharded_and_single_file_hold_the_same(tmp_path, checkpoint):
    shards = prune(tmp_path / "b", "llama", PLANS["sizes differ"], max_shard_size=20_000).directory
    assert len(set(tensor_files(shards).values())) > 3
    assert len(set(tensor_files(checkpoint).values())) == 1
    assert tensor_shapes(shards) == tensor_shapes(checkpoint)
    assert torch.equal(logits(load_model(shards)[0]), logits(load_model(checkpoint)[0]))
    one, many = dict(read_tensors(checkpoint)), dict(read_tensors(shards))
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_no_shard_is_larger_than_asked_unless_one_tensor_is(sharded):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    files = {name: load_file(sharded / name) for name in set(index["weight_map"].values())}
    assert all(sum(t.nbytes for t in f.values()) <= 20_000 or len(f) == 1 for f in files.values())
    assert index["metadata"]["total_size"] == sum(t.nbytes for f in files.values() for t in f.values())


def test_shards_are_written_while_the_tensors_still_come(tmp_path):
    """The stream is consumed one shard at a time: the first file is there before the last tensor is asked for."""
    seen = []

    def tensors():
        for i in range(4):
            seen.append(len(list((tmp_path / "out").glob("*.safetensors"))))
            yield f"t{i}", torch.zeros(100)

    write_checkpoint(tensors(), CONFIG, tmp_path, tmp_path / "out", max_shard_size=400)
    assert seen == [0, 0, 1, 2]


def test_tensors_are_read_in_the_number_type_asked_for(tmp_path):
    write_checkpoint({"w": torch.rand(3)}.items(), CONFIG, tmp_path, tmp_path / "out")
    assert dict(read_tensors(tmp_path / "out", dtype=torch.bfloat16))["w"].dtype == torch.bfloat16
    assert read_config(tmp_path / "out")["dtype"] == "float32"


def test_integers_are_written_as_they_are_and_count_for_no_number_type(tmp_path):
    write_checkpoint({"w": torch.rand(3), "ids": torch.arange(3)}.items(), CONFIG, tmp_path, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["ids"].dtype == torch.int64
    assert read_config(tmp_path / "out")["dtype"] == "float32"


def test_tokenizer_and_settings_come_along_but_neither_weights_nor_code(tmp_path):
    source = tmp_path / "source"
    (source / "additional_chat_templates").mkdir(parents=True)
    taken = [
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "chat_template.jinja",
        "generation_config.json",
    ]
    taken += ["merges.txt", "vocab.json", "LICENSE", "additional_chat_templates/tool.jinja"]
    left = ["pytorch_model.bin", "old.safetensors", "tokenizer_x.py", "modeling_x.py", "config.json", "README.md"]
    for name in taken + left:
        (source / name).write_text(name)
    write_checkpoint([("w", torch.zeros(1))], CONFIG, source, tmp_path / "out")
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert files == {*taken, "config.json", "model.safetensors"}


def test_nothing_is_left_behind_when_writing_fails(tmp_path):
    def tensors():
        yield "a", torch.zeros(100)
        yield "b", torch.zeros(100)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_checkpoint(tensors(), CONFIG, tmp_path, tmp_path / "out", max_shard_size=400)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path):
    """A tmpfs of one page would need root; a limit on file size gives the writer the same failing write."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        message = (
            r"out' cannot be written: .* Its weights take 0.400 GB, and the disk has [\d,.]+ GB free. Nothing was kept"
        )
        with pytest.raises(CheckpointError, match=message):
            write_checkpoint([("a", torch.zeros(100_000))], CONFIG, tmp_path, tmp_path / "out", size=400_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "out").exists()


def test_an_existing_directory_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="exists and is not overwritten"):
        write_checkpoint([("a", torch.zeros(1))], CONFIG, tmp_path, tmp_path / "out")


def test_fingerprint_changes_with_any_weight_and_with_the_config_and_not_with_the_place(tmp_path, checkpoint):
    first = fingerprint(checkpoint)
    shutil.copytree(checkpoint, tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == first
    tensors = load_file(tmp_path / "copy" / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    second = fingerprint(tmp_path / "copy")
    (checkpoint / "config.json").write_text((checkpoint / "config.json").read_text() + " ")
    assert len({first, second, fingerprint(checkpoint)}) == 3


def _remove(name):
    return lambda directory: (directory / name).unlink()


def _truncate(name):
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:-100])


def _write(name, text):
    return lambda directory: (directory / name).write_text(text)


def _as_pickle(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"no model directory '.*pruned'"),
        (_remove("config.json"), r"pruned' has no config\.json"),
        (_write("config.json", "{broken"), r"config\.json' cannot be read: .* line 1"),
        (_write("config.json", "[1]"), r"config\.json' cannot be read: a JSON object is needed"),
        (_remove("model.safetensors"), r"pruned' has no model\.safetensors .* Download the weights"),
        (_as_pickle, r"only pytorch_model\.bin\. Pickles are not read.*save_pretrained"),
        (_truncate("model.safetensors"), r"model\.safetensors' is damaged or incomplete"),
        (_write("model.safetensors", "not safetensors at all"), r"model\.safetensors' is damaged or incomplete"),
    ],
)
def test_a_directory_that_is_no_checkpoint_is_refused_with_place_and_fix(checkpoint, damage, message):
    damage(checkpoint)
    for reader in (load_model, fingerprint):
        with pytest.raises(CheckpointError, match=message):
            reader(checkpoint)


def test_a_shard_that_is_missing_or_lacks_a_tensor_is_named(sharded):
    files = tensor_files(sharded)
    shard = files["model.norm.weight"]
    tensors = load_file(shard)
    del tensors["model.norm.weight"]
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{shard.name}' has no tensor 'model.norm.weight'"):
        tensor_shapes(sharded)
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"{shard.name}' is missing, but model.safetensors.index.json lists it"):
        load_model(sharded)
    (sharded / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no 'weight_map'"):
        tensor_shapes(sharded)


def test_weights_that_the_config_asks_for_and_the_file_lacks_are_an_error_and_not_random(checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"no weights for model\.layers\.2\.mlp\.up_proj\.weight; .* random"):
        load_model(checkpoint)


def test_a_config_that_disagrees_with_the_weights_is_an_error(checkpoint):
    config = read_config(checkpoint)
    del config["per_layer_config"]["1"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    place = r"'model\.layers\.1\.mlp\.down_proj\.weight' has the shape \(32, 23\), but config\.json implies \(32, 48\)"
    with pytest.raises(CheckpointError, match=f"pruned': the tensor {place}"):
        load_model(checkpoint)


def test_a_tensor_is_never_read_into_memory_of_another_shape(checkpoint):
    with pytest.raises(
        CheckpointError, match=r"'model.norm.weight' has the shape \(32,\), but config.json implies \(16,\)"
    ):
        Shards(checkpoint).read_into("model.norm.weight", torch.empty(16))


def test_quantised_tensors_are_named_and_not_called_damaged(tmp_path):
    write_checkpoint(
        [("w", torch.zeros(4)), ("q", torch.zeros(1, dtype=torch.int8))], CONFIG, tmp_path, tmp_path / "out"
    )
    for reader in (stored_dtype, Shards):
        with pytest.raises(
            CheckpointError, match=r"stores 'q' as I8, which cannot be pruned. Convert the model to float32"
        ):
            reader(tmp_path / "out")


def test_values_too_large_for_a_number_type_are_named_with_a_type_that_holds_them(tmp_path):
    tensors = {
        "a": torch.tensor([1.0, -70000.0, float("inf")]),
        "b": torch.tensor([65504.0]),
        "not asked for": torch.tensor([1e9]),
    }
    write_checkpoint(tensors.items(), CONFIG, tmp_path, tmp_path / "out")
    require_range(tmp_path / "out", ["b"], "float16")
    with pytest.raises(
        NumericError,
        match=r"'a' contains 70000, which float16 cannot represent \(at most 65504\). Use model.dtype: bfloat16",
    ):
        require_range(tmp_path / "out", ["a", "b"], "float16")


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path):
    def tensors():
        raise AssertionError("nothing may be read")
        yield

    with pytest.raises(
        CheckpointError, match=r"out' needs 1,000,000.000 GB, but the disk has [\d,.]+ GB free. Nothing was written"
    ):
        write_checkpoint(tensors(), CONFIG, tmp_path, tmp_path / "out", size=10**15)
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_type_is_an_error(checkpoint):
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(CheckpointError, match="no-such-model"):
        load_model(checkpoint)
