"""A model whose layers differ in size, reloaded from disk, is the original with the removed units masked to zero."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hgsp_core.checkpoint.load import load_model
from hgsp_core.checkpoint.modeling_hgsp import HgspConfig, HgspForCausalLM
from tests.helpers.architectures import ARCHITECTURES, CONFIGS
from tests.helpers.checkpoints import PLANS, logits, prune, tokens

FAMILIES = list(CONFIGS)
GREEDY = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_masked_original(tmp_path, family, plan):
    pruned = prune(tmp_path, family, PLANS[plan])
    model, config = load_model(pruned.directory)
    assert config["model_type"] == model.config.model_type == "hgsp"
    torch.testing.assert_close(logits(model), logits(pruned.reference), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("heads", "groups", "head_dim"), [(4, 4, 8), (8, 4, 12), (28, 4, 4), (8, 1, 4)], ids=["MHA", "2:1", "7:1", "MQA"]
)
def test_holds_for_every_ratio_of_query_to_kv_heads(tmp_path, heads, groups, head_dim):
    kept = {(0, "attention"): [groups - 1], (1, "mlp"): range(9), (3, "attention"): []}
    sizes = {"num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": head_dim, "hidden_size": 56}
    pruned = prune(tmp_path, "llama-biases", kept, **sizes)
    model, _ = load_model(pruned.directory)
    torch.testing.assert_close(logits(model), logits(pruned.reference), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_plan_and_no_more(tmp_path, family):
    pruned = prune(tmp_path, family, PLANS["everything"])
    model, _ = load_model(pruned.directory)
    names = {name for name, _ in model.named_parameters()}
    for layer, axis in enumerate(ARCHITECTURES[pruned.config["base_model_type"]].axes):
        removed = tuple(f"model.layers.{layer}.{module}." for module in (axis.block, *axis.fixed))
        assert not [name for name in names if name.startswith(removed)]
    # old layer 2 has 2 of 4 groups, of 2 query heads each
    assert model.model.layers[1].self_attn.o_proj.in_features == 2 * 2 * model.config.head_dim
    assert pruned.config["hgsp"] == {"kept_layers": [0, 2, 3, 4]}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", [{}, {"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 3}])
def test_generates_what_the_masked_original_generates(tmp_path, family, cache):
    pruned = prune(tmp_path, family, PLANS["everything"])
    model, _ = load_model(pruned.directory)
    expected = pruned.reference.generate(tokens(), **GREEDY, **({"num_beams": 3} if "num_beams" in cache else {}))
    assert torch.equal(model.generate(tokens(), **GREEDY, **cache), expected)


@pytest.mark.parametrize("cache", [{}, {"use_cache": False}, {"cache_implementation": "static"}])
@pytest.mark.parametrize("family", FAMILIES)
def test_left_padding_does_not_change_what_is_generated(tmp_path, family, cache):
    model, _ = load_model(prune(tmp_path, family, PLANS["everything"]).directory)
    long, short = tokens(1, 12), tokens(1, 7, seed=2)
    padded = torch.cat([long, torch.cat([torch.zeros(1, 5, dtype=torch.long), short], dim=1)])
    both = model.generate(padded, attention_mask=(padded != 0).long(), **GREEDY, **cache)
    assert torch.equal(both[0, 12:], model.generate(long, **GREEDY)[0, 12:])
    assert torch.equal(both[1, 12:], model.generate(short, **GREEDY)[0, 7:])


def test_kv_cache_holds_the_kept_heads_of_each_layer_and_one_number_a_token_without_attention(tmp_path):
    model, _ = load_model(prune(tmp_path, "llama", PLANS["everything"]).directory)
    cache = model(tokens(), use_cache=True).past_key_values
    size = model.config.head_dim
    assert [layer.keys.shape[1] * layer.keys.shape[3] for layer in cache.layers] == [1, 2 * size, size, 1]


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "gemma2-window"])  # its soft caps need eager attention
def test_eager_and_sdpa_attention_agree_when_loaded_and_when_switched(tmp_path, family):
    directory = prune(tmp_path, family, PLANS["everything"]).directory
    model, _ = load_model(directory)
    assert model.config._attn_implementation == "sdpa"
    sdpa = logits(model)
    eager = logits(AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager"))
    torch.testing.assert_close(eager, sdpa, atol=1e-5, rtol=1e-5)
    model.set_attn_implementation("eager")
    assert torch.equal(logits(model), eager)


def test_hidden_states_and_attentions_are_those_of_the_layers(tmp_path):
    pruned = prune(tmp_path, "qwen3", PLANS["sizes differ"])
    model, reference = load_model(pruned.directory)[0], pruned.reference
    for m in (model, reference):
        m.set_attn_implementation("eager")
    ours = model(tokens(), output_hidden_states=True, output_attentions=True)
    theirs = reference(tokens(), output_hidden_states=True, output_attentions=True)
    for mine, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    assert [a.shape[1] for a in ours.attentions] == [4, 8, 8, 2, 8]  # query heads: 2 for each group kept
    torch.testing.assert_close(ours.attentions[0], theirs.attentions[0][:, 2:6], atol=1e-5, rtol=1e-5)


def test_loss_and_gradients_are_the_same_with_gradient_checkpointing(tmp_path):
    directory = prune(tmp_path, "llama", PLANS["everything"]).directory
    gradients = []
    for checkpointing in (False, True):
        model, _ = load_model(directory)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(tokens(), labels=tokens()).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stored_number_type_is_the_one_that_loads(tmp_path, dtype):
    pruned = prune(tmp_path, "llama", PLANS["sizes differ"], dtype=dtype)
    model, config = load_model(pruned.directory)
    assert model.dtype == dtype
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    assert load_model(pruned.directory, torch.float32)[0].dtype == torch.float32


def test_weights_offloaded_to_disk_give_the_same_logits(tmp_path):
    directory = prune(tmp_path, "llama", PLANS["everything"], max_shard_size=20_000).directory
    whole, _ = load_model(directory)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{i}": "disk" if i % 2 == 0 else "cpu" for i in range(4)}
    parts = AutoModelForCausalLM.from_pretrained(directory, device_map=places, offload_folder=tmp_path / "offload")
    assert parts.model.layers[0].mlp.up_proj.weight.device.type == "meta"  # on disk until its turn comes
    assert torch.equal(logits(parts), logits(whole))


def test_device_map_auto_keeps_layers_whole(tmp_path):
    directory = prune(tmp_path, "qwen2", PLANS["everything"]).directory
    model = AutoModelForCausalLM.from_pretrained(
        directory, device_map="auto", max_memory={"cpu": 50_000}, offload_folder=tmp_path / "offload"
    )
    assert set(model.hf_device_map.values()) == {"cpu", "disk"}
    assert not [name for name in model.hf_device_map if name.startswith("model.layers.") and name.count(".") > 2]
    assert torch.equal(logits(model), logits(load_model(directory)[0]))


def test_saved_again_by_transformers_it_loads_again(tmp_path):
    model, _ = load_model(prune(tmp_path, "qwen3", PLANS["everything"]).directory)
    model.save_pretrained(tmp_path / "again")
    again, config = load_model(tmp_path / "again")
    assert (tmp_path / "again" / "modeling_hgsp.py").is_file()
    assert config["auto_map"]["AutoModel"]
    assert torch.equal(logits(again), logits(model))


def test_layers_may_differ_in_query_heads_per_kv_head():
    """As if some query heads of each group were cut in layer 1 and a whole group in layer 2."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 24, "vocab_size": 97, "num_hidden_layers": 3, "head_dim": 8}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2}
    reference = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval()
    kept = {
        1: {"q": [0, 3, 4, 5], "k": [0, 1]},
        2: {"q": [4, 5, 6, 7], "k": [1]},
    }  # q: two heads of each group; one group
    per_layer = {str(i): {"num_attention_heads": 4, "num_key_value_heads": len(k["k"])} for i, k in kept.items()}
    config = HgspConfig(
        base_model_type="llama", layer_types=["full_attention"] * 3, per_layer_config=per_layer, **sizes, **heads
    )
    model = HgspForCausalLM(config).eval()
    state = reference.state_dict()
    pruned = dict(state)
    for layer, k in kept.items():
        prefix = f"model.layers.{layer}.self_attn."
        q, kv = ((torch.tensor(k[x])[:, None] * 8 + torch.arange(8)).flatten() for x in "qk")
        for name, rows in (("q_proj", q), ("k_proj", kv), ("v_proj", kv)):
            pruned[f"{prefix}{name}.weight"] = state[f"{prefix}{name}.weight"][rows]
        pruned[f"{prefix}o_proj.weight"] = state[f"{prefix}o_proj.weight"][:, q]
        gone = torch.ones(64, dtype=torch.bool)
        gone[q] = False
        state[f"{prefix}o_proj.weight"][:, gone] = 0
    model.load_state_dict(pruned)
    assert [layer.self_attn.num_key_value_groups for layer in model.model.layers] == [4, 2, 4]
    torch.testing.assert_close(logits(model), logits(reference), atol=1e-5, rtol=1e-5)
    assert torch.equal(model.generate(tokens(), **GREEDY), reference.generate(tokens(), **GREEDY))


def test_tools_that_know_one_size_for_all_layers_read_the_original_one(tmp_path):
    config = AutoConfig.from_pretrained(prune(tmp_path, "llama", PLANS["everything"]).directory)
    assert (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size) == (8, 4, 48)
