"""What is written to a GGUF file, read back with the gguf package, and what is refused.

What llama.cpp itself says: test_gguf_llama_cpp.
"""

import json
import re
import resource
from functools import partial

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import models, normalizers, pre_tokenizers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.load import load_config
from hgsp_core.checkpoint.shards import Shards
from hgsp_core.errors import NumericError
from hgsp_core.export.gguf.check import compare, compare_tensors
from hgsp_core.export.gguf.errors import GgufError
from hgsp_core.export.gguf.network import llama3_factors, network
from hgsp_core.export.gguf.vocabulary import vocabulary
from hgsp_core.export.gguf.write import write_gguf
from tests.helpers.architectures import CONFIGS
from tests.helpers.checkpoints import PLANS, SIZES, prune
from tests.helpers.gguf_models import UNIFORM, dense_layout, small_tokenizer, write
from tests.helpers.tokenizers_of import KINDS, byte_level, sentencepiece

#: kinds of models, with what makes them fit; all of 8 heads of 4 or 8 values
HOUSES = {
    ("llama", "deci"): ("llama", PLANS["everything"], {}),
    ("llama-biases", "deci"): ("llama-biases", PLANS["everything"], {}),
    ("mistral", "deci"): ("mistral", PLANS["first attention gone"], {}),
    ("qwen2", "deci"): ("qwen2", PLANS["sizes differ"], {}),
    ("qwen3", "openelm"): ("qwen3", PLANS["everything"], {"tie_word_embeddings": True}),
    ("llama", "llama"): ("llama-tied", UNIFORM["half of the heads"], {}),
    ("llama", "llama from mistral"): ("llama", UNIFORM["heads"], {}),
    ("mistral", "llama"): ("mistral", UNIFORM["heads"], {}),
    ("qwen2", "qwen2"): ("qwen2", UNIFORM["channels"], {}),
    ("qwen2", "llama from qwen2"): ("qwen2", UNIFORM["half of the heads"], {}),
    ("qwen2", "llama"): ("qwen2", UNIFORM["heads"], {}),
    ("qwen3", "qwen3"): ("qwen3", UNIFORM["heads"] | UNIFORM["layers"], {}),
}


def value(reader, key):
    return reader.get_field(key).contents()


def read(path):
    """(reader, tensor name -> values in float32)."""
    reader = gguf.GGUFReader(path)
    tensors = {}
    for tensor in reader.tensors:
        shape = tuple(reversed(tensor.shape.tolist()))
        tensors[tensor.name] = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
    return reader, tensors


def neighbours(rows, heads):
    """Of each head, row i of the first half before row i of the second half; written with loops on purpose."""
    size = len(rows) // heads
    order = [head * size + half * size // 2 + i for head in range(heads) for i in range(size // 2) for half in (0, 1)]
    return rows[order]


@pytest.mark.parametrize(("family", "arch"), HOUSES, ids=lambda name: name)
def test_every_tensor_of_the_checkpoint_is_in_the_file_under_an_architecture_that_can_hold_it(tmp_path, family, arch):
    kind, kept, config = HOUSES[family, arch]
    written = write(tmp_path, kind, kept, **config)
    reader, tensors = read(written.path)
    arch = arch.split()[0]
    assert value(reader, "general.architecture") == arch
    stored = {
        name: tensor.numpy() for name, tensor in load_file(written.pruned.directory / "model.safetensors").items()
    }
    layers = value(reader, f"{arch}.block_count")
    heads, kv_heads = (
        (lambda found: found if isinstance(found, list) else [found] * layers)(value(reader, f"{arch}.{key}"))
        for key in ("attention.head_count", "attention.head_count_kv")
    )
    used = set()

    def take(name, to, change=lambda array: array):
        for part in ("weight", "bias"):
            if f"{name}.{part}" in stored:
                used.add(f"{name}.{part}")
                expected = change(stored[f"{name}.{part}"])
                np.testing.assert_array_equal(tensors.pop(f"{to}.{part}"), expected, f"{name}.{part}")

    take("model.embed_tokens", "token_embd")
    take("model.norm", "output_norm")
    take("lm_head", "output")
    for i in range(layers):
        here, there = f"model.layers.{i}", f"blk.{i}"
        take(f"{here}.input_layernorm", f"{there}.attn_norm")
        take(f"{here}.post_attention_layernorm", f"{there}.ffn_norm")
        take(f"{here}.self_attn.o_proj", f"{there}.attn_output")
        take(f"{here}.self_attn.q_norm", f"{there}.attn_q_norm")
        take(f"{here}.self_attn.k_norm", f"{there}.attn_k_norm")
        for part in ("gate", "up", "down"):
            take(f"{here}.mlp.{part}_proj", f"{there}.ffn_{part}")
        if f"{here}.self_attn.q_proj.weight" not in stored:
            continue
        if arch == "openelm":
            names = [f"{here}.self_attn.{x}_proj.weight" for x in "qkv"]
            used |= set(names)
            expected = np.concatenate([stored[n] for n in names])
            np.testing.assert_array_equal(tensors.pop(f"{there}.attn_qkv.weight"), expected)
        else:
            take(f"{here}.self_attn.v_proj", f"{there}.attn_v")
            for letter, number in (("q", heads[i]), ("k", kv_heads[i])):
                swap = partial(neighbours, heads=number) if arch in ("llama", "deci") else (lambda rows: rows)
                take(f"{here}.self_attn.{letter}_proj", f"{there}.attn_{letter}", swap)
    assert used == stored.keys()
    for name, stub in tensors.items():  # what is left stands where something was removed, and adds nothing
        if name.endswith("norm.weight"):
            assert (stub == 1).all(), name
        else:
            assert (stub == 0).all(), name
    assert bool(tensors) == (kept in (PLANS["everything"], PLANS["first attention gone"]))


def test_settings_are_those_of_the_config(tmp_path):
    written = write(
        tmp_path, "llama", PLANS["everything"], rope_parameters={"rope_type": "default", "rope_theta": 500.0}
    )
    reader, _ = read(written.path)
    expected = {
        "block_count": 4,
        "context_length": 64,
        "embedding_length": 32,
        "vocab_size": 97,
        "attention.head_count": [1, 4, 2, 0],
        "attention.head_count_kv": [1, 2, 1, 0],
        "feed_forward_length": [20, 32, 30, 48],
        "attention.key_length": 4,
        "attention.value_length": 4,
        "rope.dimension_count": 4,
        "rope.freq_base": 500.0,
    }
    assert {key: value(reader, f"deci.{key}") for key in expected} == expected
    assert value(reader, "deci.attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)


@pytest.mark.parametrize("kind", ["mistral-window", "qwen2-window"])
def test_a_sliding_window_bounds_the_context(tmp_path, kind):
    written = write(tmp_path, kind, PLANS["sizes differ"])
    assert value(read(written.path)[0], "deci.context_length") == 5
    assert any("sliding window of 5 tokens" in note for note in written.network.notes)


def test_llama3_factors_are_transformers_own():
    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = CONFIGS["llama"](head_dim=128, rope_parameters=rope, max_position_embeddings=131072)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** (-torch.arange(0, 128, 2) / 128)
    factors = torch.tensor(list(llama3_factors(config.rope_parameters, 128)))
    torch.testing.assert_close(plain / factors, scaled, rtol=1e-5, atol=0)
    assert len(factors.unique()) > 5


@pytest.mark.parametrize(
    ("number_type", "matrices", "error"), [("f16", "F16", 2**-11), ("bf16", "BF16", 2**-8), ("q8_0", "Q8_0", 0.5 / 127)]
)
def test_matrices_are_rounded_to_the_number_type_and_vectors_are_not(tmp_path, number_type, matrices, error):
    written = write(tmp_path, "qwen2", PLANS["sizes differ"], number_type)
    reader, tensors = read(written.path)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["output_norm.weight"] == kinds["blk.0.attn_q.bias"] == "F32"
    assert kinds["token_embd.weight"] == matrices
    if number_type == "q8_0":
        assert kinds["blk.0.attn_output.weight"] == "F16"  # 16 columns
    stored = load_file(written.pruned.directory / "model.safetensors")["model.embed_tokens.weight"].numpy()
    found = tensors["token_embd.weight"]
    assert 0 < np.abs(found - stored).max() <= error * 1.02 * np.abs(stored).max()
    assert compare(written.path, written.pruned.directory, "qwen2") == ("", len(tensors))


def test_a_bf16_checkpoint_goes_into_a_bf16_file_without_loss(tmp_path):
    written = write(tmp_path, "llama", PLANS["sizes differ"], "bf16", dtype=torch.bfloat16)
    stored = load_file(written.pruned.directory / "model.safetensors")["model.layers.2.mlp.up_proj.weight"]
    np.testing.assert_array_equal(read(written.path)[1]["blk.2.ffn_up.weight"], stored.float().numpy())


def test_a_fresh_process_compares_every_tensor_and_finds_a_changed_value(tmp_path):
    written = write(tmp_path, "llama", PLANS["sizes differ"])
    assert compare(written.path, written.pruned.directory, "llama") == ("", len(written.network.pieces))
    path = written.pruned.directory / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.2.mlp.up_proj.weight"][3, 5] += 1e-4
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(GgufError, match=r"'blk\.2\.ffn_up\.weight' differs by up to "):
        compare_tensors(written.path, written.pruned.directory, "llama")


def test_a_tensor_too_few_is_found(tmp_path):
    written = write(tmp_path, "llama", PLANS["sizes differ"])
    other = prune(tmp_path / "other", "llama", PLANS["mlps gone"] | {(2, "attention"): []})
    fault, _ = compare(written.path, other.directory, "llama")
    assert "blk.2.attn_q.weight" in fault
    assert "only in the file or only in the checkpoint" in fault


@pytest.mark.parametrize(
    ("kind", "kept", "config", "message"),
    [
        ("qwen3", PLANS["sizes differ"], {}, "supports only a tied head. Give all layers the same size"),
        ("qwen3", {}, {"attention_bias": True}, "have no biases"),
        ("llama", {}, {"hidden_act": "gelu"}, "hidden_act: 'gelu'"),
        (
            "llama",
            {},
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope_parameters.rope_type: 'dynamic'",
        ),
    ],
    ids=["untied with sizes that differ", "biases beside norms", "activation", "rope"],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused_with_the_reason(tmp_path, kind, kept, config, message):
    with pytest.raises(GgufError, match=re.escape(message)):
        write(tmp_path, kind, kept, **config)
    assert not (tmp_path / "model.gguf").exists()


def test_an_unknown_family_is_refused(tmp_path):
    from dataclasses import replace

    layout = dense_layout("llama")
    other = replace(layout, architecture=replace(layout.architecture, model_type="gemma", gguf=""))
    with pytest.raises(GgufError, match=r"no architecture of llama\.cpp is known to compute the same as 'gemma'"):
        network(other, CONFIGS["llama"](**SIZES))


@pytest.mark.parametrize(("number_type", "large"), [("f16", 70000.0), ("q8_0", 1e7)])
def test_a_value_that_would_overflow_is_refused_with_its_tensor(tmp_path, number_type, large):
    with pytest.raises(
        GgufError, match=r"'model\.layers\.0\.mlp\.down_proj\.weight' contains (70000|1e\+07), which is too large for"
    ):
        _write_with(tmp_path, large, number_type)
    assert not (tmp_path / "model.gguf").exists()
    _write_with(tmp_path, large, "bf16")


def test_a_tensor_with_nan_is_refused_with_its_name(tmp_path):
    with pytest.raises(NumericError, match=r"model\.layers\.0\.mlp\.down_proj\.weight"):
        _write_with(tmp_path, float("nan"), "f32")
    assert not (tmp_path / "model.gguf").exists()


def _write_with(tmp_path, number, number_type):
    if not (tmp_path / "pruned").exists():
        pruned = prune(tmp_path, "llama", {})
        tensors = load_file(pruned.directory / "model.safetensors")
        tensors["model.layers.0.mlp.down_proj.weight"][1, 2] = number
        save_file(tensors, pruned.directory / "model.safetensors", metadata={"format": "pt"})
    directory = tmp_path / "pruned"
    held, words = network(dense_layout("llama"), load_config(directory)), vocabulary(small_tokenizer(), 97)
    write_gguf(tmp_path / "model.gguf", Shards(directory), held, words, number_type, lambda done, total: None)


def test_a_disk_that_fills_up_half_way_leaves_no_file(tmp_path):
    """A limit on the size of files stands in for a full disk: both fail in the middle of a write."""
    written, words = write(tmp_path, "llama", PLANS["sizes differ"]), vocabulary(small_tokenizer(), 97)
    path, (soft, hard) = tmp_path / "full.gguf", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(GgufError, match=r"full\.gguf' cannot be written: .*Nothing was kept"):
            write_gguf(path, Shards(written.pruned.directory), written.network, words, "f32", lambda done, total: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert written.path.stat().st_size > 40_000
    assert not path.exists()


def test_a_tensor_that_a_shard_lacks_is_named_and_no_file_is_left(tmp_path):
    pruned = prune(tmp_path, "llama", PLANS["sizes differ"], max_shard_size=20_000)
    index = json.loads((pruned.directory / "model.safetensors.index.json").read_text())
    shard = pruned.directory / index["weight_map"]["model.layers.4.mlp.up_proj.weight"]
    tensors = load_file(shard)
    del tensors["model.layers.4.mlp.up_proj.weight"]
    save_file(tensors, shard, metadata={"format": "pt"})
    from hgsp_core.runtime.source import checkpoint_layout

    with pytest.raises(CheckpointError, match=r"model-.*has no tensor 'model\.layers\.4\.mlp\.up_proj\.weight'"):
        checkpoint_layout(pruned.directory, "llama")


def test_one_tensor_is_in_memory_at_a_time(tmp_path, monkeypatch):
    """When a tensor is read, the ones before it are in the file already."""
    written = write(tmp_path, "llama", PLANS["sizes differ"])
    path, sizes = tmp_path / "again.gguf", []
    read_into = Shards.read_into

    def watched(self, name, target):
        sizes.append(path.stat().st_size)
        read_into(self, name, target)

    monkeypatch.setattr(Shards, "read_into", watched)
    words = vocabulary(small_tokenizer(), 97)
    write_gguf(path, Shards(written.pruned.directory), written.network, words, "f32", lambda done, total: None)
    assert len(set(sizes)) > len(sizes) * 0.8
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("pre", KINDS)
def test_the_tokenizer_is_in_the_file_with_its_special_tokens_and_template(tmp_path, pre):
    tokenizer = KINDS[pre]()
    words = vocabulary(tokenizer, len(tokenizer) + 3)
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    words.describe(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    reader = gguf.GGUFReader(tmp_path / "t.gguf")
    assert value(reader, "tokenizer.ggml.pre") == pre
    tokens, kinds = value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.token_type")
    assert len(tokens) == len(kinds) == len(tokenizer) + 3
    assert tokens[-1] == f"[PAD{len(tokens) - 1}]"
    assert kinds[-1] == 5
    for name in ("bos", "eos"):
        token = getattr(tokenizer, f"{name}_token_id")
        assert value(reader, f"tokenizer.ggml.{name}_token_id") == token
        assert tokens[token] == getattr(tokenizer, f"{name}_token")
        assert kinds[token] == 3
    assert value(reader, "tokenizer.ggml.add_bos_token") == (pre in ("llama-bpe", "default"))
    if pre == "default":
        assert kinds[tokens.index("<0x0A>")] == 6
        assert kinds[tokens.index("[TOOL]")] == 4
        assert kinds[0] == 2
    else:
        assert value(reader, "tokenizer.chat_template") == tokenizer.chat_template


def _changed(change):
    tokenizer = byte_level()
    change(tokenizer.backend_tokenizer)
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (lambda: _changed(lambda t: setattr(t, "normalizer", normalizers.Lowercase())), "normalises text by Lowercase"),
        (lambda: _changed(lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Whitespace())), "splits text by a rule"),
        (lambda: byte_level(r"\w+|\s+"), r"splits text by a rule that llama\.cpp has no name for \(\\w\+"),
        (lambda: _changed(lambda t: t.add_special_tokens([_stripping()])), "'<x>' is matched with 'lstrip'"),
        (
            lambda: _changed(lambda t: setattr(t, "model", models.WordLevel({"a": 0, "b": 1}, "a"))),
            "its model is WordLevel",
        ),
        (lambda: _with_merges(lambda merges: merges[: len(merges) // 2]), "merges are not SentencePiece's"),
        (lambda: _with_merges(lambda merges: merges[::2] + merges[1::2]), "merges are not SentencePiece's"),
    ],
    ids=["normalizer", "pre-tokenizer", "regex", "lstrip", "word level", "too few merges", "merges in another order"],
)
def test_a_tokenizer_whose_ids_llama_cpp_would_not_give_is_refused(tokenizer, message):
    with pytest.raises(GgufError, match=message):
        vocabulary(tokenizer(), 2000)


def _stripping():
    from tokenizers import AddedToken

    return AddedToken("<x>", lstrip=True, special=True)


def _with_merges(change, size=1200):
    tokenizer = sentencepiece(size=size)
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules["model"]["merges"] = change(rules["model"]["merges"])
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(rules)), bos_token="<s>", eos_token="</s>"
    )


def test_a_tokenizer_larger_than_the_embedding_is_refused():
    tokenizer = byte_level()
    with pytest.raises(GgufError, match=f"{len(tokenizer)} tokens, but the model's embedding has only 100 rows"):
        vocabulary(tokenizer, 100)


def test_differences_that_remain_are_told():
    assert "decomposed text" in vocabulary(KINDS["qwen2"](), 2000).notes[0]
    assert "after each special token" in vocabulary(sentencepiece(metaspace=True), 2000).notes[0]
    assert "1 of" in vocabulary(_with_merges(lambda merges: merges[1:], size=4000), 5000).notes[0]
    assert not vocabulary(KINDS["default"](), 2000).notes
