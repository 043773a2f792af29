"""Files of the hub hold each expert's tensors by themselves; in memory a layer's experts are one tensor."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.surgery import prune_tensors
from hgsp_core.checkpoint.config import pruned_config
from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.load import load_model
from hgsp_core.checkpoint.read import places, tensor_shapes
from hgsp_core.checkpoint.shards import Shards
from hgsp_core.checkpoint.stored import in_files, stored_shapes
from hgsp_core.checkpoint.write import write_checkpoint
from hgsp_core.engine.weights import Streamed
from hgsp_core.model.errors import LayoutError
from hgsp_core.runtime.recipe import ModelPart
from hgsp_core.runtime.source import checkpoint_layout, open_model
from tests.helpers.architectures import ARCHITECTURES, WITH_EXPERTS, layout_of, tiny_model

#: a tensor in memory, and the names of the first two experts' parts in files
PARTS = {
    "mixtral": ("gate_up_proj", [f"block_sparse_moe.experts.{e}.{w}.weight" for e in (0, 1) for w in ("w1", "w3")]),
    "qwen3_moe": ("gate_up_proj", [f"mlp.experts.{e}.{w}_proj.weight" for e in (0, 1) for w in ("gate", "up")]),
}


@pytest.fixture(params=WITH_EXPERTS)
def saved(request, tmp_path):
    """(model, directory in the form of the hub), which transformers itself wrote."""
    model = tiny_model(request.param)
    model.save_pretrained(tmp_path / "hub")
    return model, tmp_path / "hub"


def test_files_of_the_hub_are_read_as_the_tensors_in_memory(saved):
    model, directory = saved
    architecture = ARCHITECTURES[model.config.model_type]
    shards = Shards(directory, architecture)
    expected = model.state_dict()
    assert set(shards) == set(expected)
    assert not set(tensor_shapes(directory)) >= set(expected)  # they are stored in another form
    for name, tensor in expected.items():
        assert torch.equal(shards.read(name), tensor), name
        assert shards.read(name, torch.bfloat16).dtype == torch.bfloat16
    assert stored_shapes(directory, architecture) == {name: tuple(t.shape) for name, t in expected.items()}


def test_tensors_are_written_as_transformers_writes_them(saved, tmp_path):
    model, directory = saved
    architecture, config = ARCHITECTURES[model.config.model_type], json.loads((directory / "config.json").read_text())
    write_checkpoint(
        in_files(model.state_dict().items(), architecture, config), config, directory, tmp_path / "ours", 20_000
    )
    assert tensor_shapes(tmp_path / "ours") == tensor_shapes(directory)
    ours, theirs = Shards(tmp_path / "ours"), load_file(directory / "model.safetensors")
    assert all(torch.equal(ours.read(name), tensor) for name, tensor in theirs.items())


def test_tensors_of_a_model_with_layers_of_different_sizes_stay_as_they_are_in_memory(saved):
    model, _ = saved
    architecture = ARCHITECTURES[model.config.model_type]
    kept = dict(in_files(model.state_dict().items(), architecture, {"model_type": "hgsp"}))
    assert kept.keys() == model.state_dict().keys()


def test_a_file_that_holds_the_tensors_of_memory_is_read_as_it_is(saved, tmp_path):
    model, directory = saved
    model.save_pretrained(tmp_path / "memory", save_original_format=False)
    assert set(tensor_shapes(tmp_path / "memory")) == set(model.state_dict())
    assert checkpoint_layout(tmp_path / "memory").shapes() == checkpoint_layout(directory).shapes()
    assert torch.equal(
        Shards(tmp_path / "memory", ARCHITECTURES[model.config.model_type]).read("lm_head.weight"), model.lm_head.weight
    )


def test_streamed_layers_hold_the_weights_of_resident_ones(saved):
    model, directory = saved
    layout = checkpoint_layout(directory)
    assert layout.layers == layout_of(load_model(directory)[0]).layers
    for index, layer in Streamed(directory, layout, torch.float32).layers(range(len(layout.layers))):
        own = model.get_submodule(layout.layers[index].module).state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in layer.state_dict().items())


@pytest.mark.parametrize("kind", PARTS)
def test_a_uniform_plan_gives_a_checkpoint_of_the_stock_class_in_the_form_of_the_hub(kind, tmp_path):
    model = tiny_model(kind)
    layout = layout_of(model)
    kept = {(b.layer, b.axis.name): [1, 3, 4] if b.routed else range(b.units) for b in layout.blocks()}
    plan = Plan.of(layout, kept, 0)
    assert plan.is_uniform()
    config = pruned_config(layout, plan)
    assert config["model_type"] == kind
    assert config["num_local_experts"] == 3
    tensors = in_files(prune_tensors(model.state_dict().items(), layout, plan), layout.architecture, config)
    write_checkpoint(tensors, config, tmp_path, tmp_path / "pruned")
    local, parts = PARTS[kind]
    stored = Shards(tmp_path / "pruned")
    found = torch.cat([stored.read(f"model.layers.0.{part}") for part in parts[2:]])
    assert torch.equal(found, model.get_parameter(f"model.layers.0.mlp.experts.{local}")[3])
    assert load_model(tmp_path / "pruned")[0].model.layers[0].mlp.experts.num_experts == 3


def test_layers_without_experts_are_listed_by_their_new_numbers():
    model = tiny_model("qwen3_moe", num_hidden_layers=4, mlp_only_layers=[0, 2])
    layout = layout_of(model)
    kept = {(b.layer, b.axis.name): range(b.units) if b.layer != 1 else () for b in layout.blocks()}
    config = pruned_config(layout, Plan.of(layout, kept, 0))
    assert config["model_type"] == "qwen3_moe"
    assert config["mlp_only_layers"] == [0, 1]
    by_step = layout_of(tiny_model("qwen2_moe", num_hidden_layers=4))  # every second layer has experts
    config = pruned_config(by_step, Plan.keep_all(by_step))
    assert (config["mlp_only_layers"], config["decoder_sparse_step"]) == ([0, 2], 1)


def changed(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def test_an_expert_without_one_of_its_tensors_is_named(tmp_path):
    tiny_model("mixtral").save_pretrained(tmp_path)
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    changed(tmp_path, lambda tensors: tensors.pop(name))
    with pytest.raises(LayoutError, match=f"no tensor '{name}'"):
        open_model(ModelPart(path=str(tmp_path)))


def test_an_expert_of_another_shape_is_named(tmp_path):
    tiny_model("qwen3_moe").save_pretrained(tmp_path)
    name = "model.layers.2.mlp.experts.4.down_proj.weight"
    changed(tmp_path, lambda tensors: tensors.update({name: tensors[name][:, :-1].contiguous()}))
    with pytest.raises(LayoutError, match=rf"'{name}' has the shape \(32, 15\), the first expert's \(32, 16\)"):
        open_model(ModelPart(path=str(tmp_path)))


def test_fewer_experts_than_the_config_says_are_refused(tmp_path):
    tiny_model("mixtral").save_pretrained(tmp_path)
    changed(tmp_path, lambda t: [t.pop(name) for name in list(t) if ".layers.0." in name and ".experts.5." in name])
    with pytest.raises(LayoutError, match=r"has 5 rows, but config\.json says 6"):
        open_model(ModelPart(path=str(tmp_path)))


def test_a_tensor_that_ends_early_is_named_as_in_the_file(tmp_path):
    tiny_model("mixtral").save_pretrained(tmp_path)
    shards = Shards(tmp_path, ARCHITECTURES["mixtral"])
    last = max(places(tmp_path).values(), key=lambda place: place.offset)
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.truncate(last.offset)
    with pytest.raises(CheckpointError, match="is cut off"):
        [shards.read(name) for name in shards]
