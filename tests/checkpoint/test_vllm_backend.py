"""The model driven as vLLM's Transformers backend drives one (vllm 0.32 and 0.33, model_executor/models/transformers).

That backend builds AutoModel without memory for its weights, reads each layer's heads from `config.per_layer_config`, wants
one call of the attention interface in every layer, runs several texts as one row of tokens without a cache of transformers',
and takes hidden states out. Its own attention keeps keys and values of each layer. vLLM itself is no dependency of the
tests; docs/checkpoints.md says with which one this was compared.
"""

import inspect

import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hgsp_core.checkpoint.register import register
from tests.helpers.checkpoints import PLANS, prune, tokens


class Attention:
    """One layer's: keeps keys and values of each text, and lets each token see its own text up to itself."""

    def __init__(self, heads: int, kv_heads: int, size: int, window: int | None):
        self.heads, self.kv_heads, self.size, self.window = heads, kv_heads, size, window
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(self, query, key, value, scaling, lengths):
        """query [tokens, heads * size], key and value [tokens, kv_heads * size]; lengths: new tokens of each text."""
        assert query.shape[1:] == (self.heads * self.size,)
        assert key.shape[1:] == (self.kv_heads * self.size,)
        results = []
        for text, (q, k, v) in enumerate(
            zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
        ):
            if text in self.kept:
                k, v = torch.cat([self.kept[text][0], k]), torch.cat([self.kept[text][1], v])
            self.kept[text] = (k, v)
            q, k, v = (x.view(len(x), -1, self.size).transpose(0, 1) for x in (q, k, v))
            k, v = (x.repeat_interleave(self.heads // self.kv_heads, dim=0) for x in (k, v))
            row = torch.arange(k.shape[1] - q.shape[1], k.shape[1])[:, None]
            column = torch.arange(k.shape[1])
            seen = (column <= row) & (column > row - (self.window or k.shape[1]))
            weights = (q @ k.transpose(1, 2) * scaling).masked_fill(~seen, float("-inf")).softmax(-1)
            results.append((weights @ v).transpose(0, 1).flatten(1))
        return torch.cat(results)


@pytest.fixture
def backend(monkeypatch):
    """The attention function; `lengths` is what vLLM's forward context would tell it."""
    lengths: list[int] = []

    def attention(module, query, key, value, attention_mask, scaling=None, attention_instances=None, **kwargs):
        query, key, value = (x.transpose(1, 2).reshape(x.shape[-2], -1) for x in (query, key, value))
        own = attention_instances[module.layer_idx]
        return own.forward(query, key, value, 1.0 if scaling is None else scaling, list(lengths)), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "vllm", attention)
    return lengths


def build(directory):
    """(the decoder with its weights, the head's weight, an Attention for each layer)."""
    register()
    config = AutoConfig.from_pretrained(directory)
    config._attn_implementation = "vllm"
    with init_empty_weights(include_buffers=False):
        model = AutoModel.from_config(config).eval()
    assert all(p.device.type == "meta" for p in model.parameters())
    stored = load_file(directory / "model.safetensors")
    head = stored.pop("lm_head.weight", stored["model.embed_tokens.weight"])
    model.load_state_dict({name.removeprefix("model."): t for name, t in stored.items()}, assign=True)
    assert config.is_heterogeneous
    instances = {}
    for i, layer in enumerate(model.layers):
        own = config.per_layer_config[i]
        kinds = getattr(config, "layer_types", None)
        window = getattr(config, "sliding_window", None) if kinds is None or kinds[i] == "sliding_attention" else None
        instances[i] = Attention(own.num_attention_heads, own.num_key_value_heads, own.head_dim, window)
        assert layer.self_attn.layer_idx == i
        assert inspect.getsource(type(layer.self_attn).forward).count("ALL_ATTENTION_FUNCTIONS") == 1
    return model, head, instances


@pytest.mark.parametrize("plan", ["sizes differ", "everything"])
@pytest.mark.parametrize("family", ["llama", "llama-tied", "mistral-window", "qwen2", "qwen3"])
@torch.no_grad()
def test_gives_the_logits_of_the_masked_original_for_several_texts_at_once_and_token_by_token(
    tmp_path, backend, family, plan
):
    pruned = prune(tmp_path, family, PLANS[plan])
    model, head, instances = build(pruned.directory)
    texts = [tokens(1, 9, seed=1)[0], tokens(1, 4, seed=2)[0]]
    read, expected = [0, 0], [pruned.reference(t[None], use_cache=False).logits[0] for t in texts]
    for step in ([7, 3], [1, 1], [1, 0]):  # a prompt of each, then token by token; the second text ends first
        lengths = [n for n in step if n]
        backend[:] = lengths
        parts = [texts[i][read[i] : read[i] + n] for i, n in enumerate(step)]
        positions = [torch.arange(read[i], read[i] + n) for i, n in enumerate(step)]
        hidden = model(
            input_ids=torch.cat(parts)[None],
            position_ids=torch.cat(positions)[None],
            use_cache=False,
            attention_instances=instances,
            return_dict=False,
        )[0][0]
        logits = (hidden @ head.T).split(step)
        for i, n in enumerate(step):
            torch.testing.assert_close(logits[i], expected[i][read[i] : read[i] + n], atol=1e-5, rtol=1e-5)
            read[i] += n
    assert read == [9, 4]


def test_a_layer_without_attention_asks_for_a_cache_of_one_kv_head(tmp_path):
    config = prune(tmp_path, "llama", PLANS["everything"]).config
    assert config["per_layer_config"]["0"] == {"num_key_value_heads": 1, "intermediate_size": 20, "skip": ["attention"]}
