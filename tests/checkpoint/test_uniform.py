"""A model with the same sizes in every layer is stored under a stock class, and is the masked original there too."""

import pytest
import torch

from hgsp_core.checkpoint.load import load_model
from tests.helpers.checkpoints import logits, prune, tokens

#: 3 of 4 groups, so 6 query heads of the old size, which do not divide hidden_size 32; and 2 of 4, so 4, which do
ODD = {(i, "attention"): [0, 1, 3] for i in range(5)} | {(i, "mlp"): range(i, 30 + i) for i in range(5)}
EVEN = {(i, "attention"): [1, 2] for i in range(5)}
CHANNELS = {(i, "mlp"): range(16) for i in range(5)}
LAYERS = {(1, "attention"): [], (1, "mlp"): [], (4, "attention"): [], (4, "mlp"): []}


@pytest.mark.parametrize(
    ("family", "kept", "stored_as"),
    [
        ("llama", EVEN, "llama"),
        ("llama", CHANNELS, "llama"),
        ("llama", LAYERS, "llama"),
        ("llama", ODD, "mistral"),
        ("llama-tied", ODD, "mistral"),
        ("llama-biases", EVEN, "llama"),
        ("llama-biases", ODD, "hgsp"),
        ("mistral", ODD, "mistral"),
        ("mistral", LAYERS, "mistral"),
        ("mistral-window", ODD | LAYERS, "mistral"),
        ("qwen2", EVEN, "llama"),
        ("qwen2", EVEN | LAYERS, "llama"),
        ("qwen2", CHANNELS, "qwen2"),
        ("qwen2", LAYERS, "qwen2"),
        ("qwen2", ODD, "qwen2"),
        ("qwen2-window", EVEN | LAYERS, "qwen2"),
        ("qwen3", ODD | LAYERS, "qwen3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_is_stored_as_a_stock_model_that_equals_the_masked_original(tmp_path, family, kept, stored_as):
    pruned = prune(tmp_path, family, kept)
    model, config = load_model(pruned.directory)
    assert config["model_type"] == model.config.model_type == stored_as
    assert (pruned.directory / "modeling_hgsp.py").exists() == (stored_as == "hgsp")
    assert type(model).__module__.startswith("transformers.models.") == (stored_as != "hgsp")
    torch.testing.assert_close(logits(model), logits(pruned.reference), atol=1e-5, rtol=1e-5)
    greedy = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(model.generate(tokens(), **greedy), pruned.reference.generate(tokens(), **greedy))


def test_per_layer_lists_of_the_config_follow_the_layers(tmp_path):
    config = prune(tmp_path, "qwen2-window", LAYERS).config  # full attention in layers 0 and 1, a window from 2 on
    assert config["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention"]
    assert config["num_hidden_layers"] == 3


def test_a_token_id_list_as_long_as_the_model_is_not_taken_for_a_list_of_layers(tmp_path):
    config = prune(tmp_path, "llama", LAYERS, eos_token_id=[1, 2, 3, 4, 5]).config
    assert config["eos_token_id"] == [1, 2, 3, 4, 5]


def test_defaults_of_the_old_family_hold_in_the_new_one(tmp_path):
    """Llama and Mistral differ in the defaults of keys that a config.json may leave out."""
    config = prune(tmp_path, "llama", ODD, rope_parameters={"rope_type": "default", "rope_theta": 500.0}).config
    assert config["model_type"] == "mistral"
    assert config["architectures"] == ["MistralForCausalLM"]
    assert config["rope_parameters"]["rope_theta"] == 500.0
    assert config["max_position_embeddings"] == 64
    assert config["sliding_window"] is None
    assert "attention_bias" not in config


def test_keeping_everything_keeps_every_value_of_the_config(tmp_path):
    pruned = prune(tmp_path, "qwen3", {})
    original = pruned.reference.config.to_dict()
    assert {key: value for key, value in pruned.config.items() if original.get(key) != value} == {}
