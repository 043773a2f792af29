"""Costs counted from shapes equal what torch and transformers count on the models themselves."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.surgery import prune_tensors
from hgsp_core.checkpoint.config import pruned_config
from hgsp_core.checkpoint.load import load_model
from hgsp_core.checkpoint.write import write_checkpoint
from hgsp_core.report.cost import costs
from tests.helpers.architectures import CONFIGS, WITH_EXPERTS, layout_of, tiny_model
from tests.helpers.command import MODEL

SEQ_LEN = 24


def counted_macs(model) -> int:
    """FLOPs / 2 of one window by torch's counter, without the rotary angles (no weight, no head takes part in them)."""
    model.set_attn_implementation("eager")  # plain matrix products, which the counter knows on every device
    if any("num_experts" in vars(module) for module in model.modules()):
        model.set_experts_implementation("eager")
    ids = torch.arange(SEQ_LEN)[None] % model.config.vocab_size
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    angles = sum(flops for name, flops in counts.items() if name.endswith("rotary_emb"))
    return (counts["Global"] - angles) // 2


def cached_bytes(model) -> int:
    ids = torch.arange(SEQ_LEN)[None] % model.config.vocab_size
    with torch.no_grad():
        layers = model(input_ids=ids, use_cache=True).past_key_values.layers
    return sum(t.numel() * t.element_size() for layer in layers for t in (layer.keys, layer.values) if t is not None)


def assert_costs_are_real(model, counted) -> None:
    size = next(model.parameters()).element_size()
    assert counted["parameters"] == model.num_parameters()
    assert counted["layer_parameters"] == sum(p.numel() for p in model.model.layers.parameters())
    assert counted["bytes"] == model.num_parameters() * size
    assert counted["macs"] * SEQ_LEN == counted_macs(model)
    assert counted["kv_cache_bytes_per_token"] * SEQ_LEN == cached_bytes(model)


def uneven_plan(layout) -> Plan:
    """Other sizes in each layer, one block of each kind gone whole."""
    kept = {(b.layer, b.axis.name): range(b.units - b.layer % b.units) for b in layout.blocks()}
    kept[1, "attention"] = kept[2, "mlp"] = ()
    return Plan.of(layout, kept, 0)


@pytest.mark.parametrize("kind", [kind for kind in (*CONFIGS, *WITH_EXPERTS) if "window" not in kind])
def test_costs_of_a_whole_model_are_those_that_torch_counts(kind):
    model = tiny_model(kind)
    layout = layout_of(model)
    assert_costs_are_real(model, costs(layout, Plan.keep_all(layout), SEQ_LEN, 4))


def test_costs_of_the_trained_model_are_those_that_torch_counts():
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    layout = layout_of(model)
    assert_costs_are_real(model, costs(layout, Plan.keep_all(layout), SEQ_LEN, 4))


@pytest.mark.parametrize("kind", ["llama", "llama-biases", "llama-tied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_forecast_of_a_plan_is_what_the_pruned_checkpoint_costs(kind, dtype, tmp_path):
    original = tiny_model(kind, dtype=dtype)
    original.save_pretrained(tmp_path / "original")
    layout = layout_of(original)
    plan = uneven_plan(layout)
    tensors = prune_tensors(original.state_dict().items(), layout, plan)
    write_checkpoint(tensors, pruned_config(layout, plan), tmp_path / "original", tmp_path / "pruned")
    pruned, _ = load_model(tmp_path / "pruned")
    assert_costs_are_real(pruned, costs(layout, plan, SEQ_LEN, dtype.itemsize))


@pytest.mark.parametrize("kind", WITH_EXPERTS)
def test_the_forecast_counts_the_experts_that_a_token_goes_to(kind, tmp_path):
    original = tiny_model(kind)
    original.save_pretrained(tmp_path / "original")
    layout = layout_of(original)
    kept = {(b.layer, b.axis.name): range(b.units - b.layer - 1 if b.routed else b.units) for b in layout.blocks()}
    plan = Plan.of(layout, kept, 0)
    tensors = prune_tensors(original.state_dict().items(), layout, plan)
    write_checkpoint(tensors, pruned_config(layout, plan), tmp_path / "original", tmp_path / "pruned")
    pruned, _ = load_model(tmp_path / "pruned")
    before, after = costs(layout, Plan.keep_all(layout), SEQ_LEN, 4), costs(layout, plan, SEQ_LEN, 4)
    assert_costs_are_real(pruned, after)
    for model, counted in ((original, before), (pruned, after)):
        idle = sum(
            p.numel() * (module.num_experts - 2) // module.num_experts
            for module in model.modules()
            if type(module).__name__.endswith("Experts")
            for p in module.parameters()
        )
        assert counted["active_parameters"] == model.num_parameters() - idle


def test_models_without_experts_have_no_active_parameters():
    layout = layout_of(tiny_model("llama"))
    assert "active_parameters" not in costs(layout, Plan.keep_all(layout), SEQ_LEN, 4)


def test_a_longer_window_costs_only_attention_more():
    layout = layout_of(tiny_model("llama"))
    plan = uneven_plan(layout)
    near, far = (costs(layout, plan, n, 4) for n in (128, 2048))
    query_width = sum(
        len(plan.block(b).kept) * 4 * 4 for b in layout.blocks() if b.axis.name == "attention"
    )  # 4 query heads a group, of 4
    assert far["macs"] - near["macs"] == 2 * (2048 - 128) * query_width
    assert {k: v for k, v in far.items() if k != "macs"} == {k: v for k, v in near.items() if k != "macs"}
