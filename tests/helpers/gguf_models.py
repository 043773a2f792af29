"""Pruned tiny models with a tokenizer, as GGUF files."""

from typing import NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hgsp_core.checkpoint.load import load_config
from hgsp_core.checkpoint.shards import Shards
from hgsp_core.export.gguf.network import Network, network
from hgsp_core.export.gguf.vocabulary import vocabulary
from hgsp_core.export.gguf.write import write_gguf
from hgsp_core.runtime.source import checkpoint_layout
from tests.helpers.architectures import layout_of, tiny_model
from tests.helpers.checkpoints import SIZES, Pruned, prune

#: same sizes in every layer: 3 of 4 groups, so heads * head_dim != hidden size; 2 of 4; fewer channels; fewer layers
UNIFORM = {
    "heads": {(i, "attention"): [0, 1, 3] for i in range(5)} | {(i, "mlp"): range(i, 32 + i) for i in range(5)},
    "half of the heads": {(i, "attention"): [1, 2] for i in range(5)},
    "channels": {(i, "mlp"): range(16) for i in range(5)},
    "layers": {(1, "attention"): [], (1, "mlp"): [], (4, "attention"): [], (4, "mlp"): []},
}


class Written(NamedTuple):
    path: object
    pruned: Pruned
    network: Network


def small_tokenizer(tokens=97):
    """Byte-level BPE of as many tokens as the tiny models have rows."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())[: tokens - 1]
    vocab = {token: number for number, token in enumerate([*characters, "ab"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=characters[0])


def write(tmp_path, kind, kept, number_type="f32", dtype=torch.float32, **config) -> Written:
    """Prune a tiny model of this kind and write it as GGUF beside its checkpoint."""
    small_tokenizer().save_pretrained(tmp_path)
    pruned = prune(tmp_path, kind, kept, dtype=dtype, **config)
    held = network(checkpoint_layout(pruned.directory, kind.split("-")[0]), load_config(pruned.directory))
    path = tmp_path / "model.gguf"
    words = vocabulary(small_tokenizer(), 97)
    write_gguf(path, Shards(pruned.directory), held, words, number_type, lambda done, total: None)
    return Written(path, pruned, held)


def dense_layout(kind, **config):
    return layout_of(tiny_model(kind, **{**SIZES, **config}))
