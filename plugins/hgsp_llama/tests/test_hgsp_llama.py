"""The Llama plugin passes the conformance kit: on random models of real shapes, scaled, and on a trained one."""

from pathlib import Path

import pytest
import torch
from hgsp_llama import LLAMA
from transformers import AutoModelForCausalLM, LlamaConfig

from hgsp_core.testing import architecture_checks

TRAINED = Path(__file__).parents[3] / "models" / "pydoc-llama"

LLAMA_3_8B = dict(
    vocab_size=80,
    hidden_size=128,
    intermediate_size=448,
    num_attention_heads=32,
    num_key_value_heads=8,
    num_hidden_layers=3,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)
SHAPES = {
    "llama-3-8b": LlamaConfig(**LLAMA_3_8B),
    "llama-2-7b (no groups)": LlamaConfig(**LLAMA_3_8B | {"num_key_value_heads": 32, "intermediate_size": 344}),
    "llama-3.2-1b (tied)": LlamaConfig(**LLAMA_3_8B | {"intermediate_size": 512, "tie_word_embeddings": True}),
    "biases": LlamaConfig(**LLAMA_3_8B, attention_bias=True, mlp_bias=True),
    "one KV head, head_dim of its own": LlamaConfig(**LLAMA_3_8B | {"num_key_value_heads": 1, "head_dim": 16}),
}


def trained():
    """models/pydoc-llama, the model that the repository ships: 4 groups of 4 heads, 6 layers, tied."""
    return AutoModelForCausalLM.from_pretrained(TRAINED, dtype=torch.float32)


MODELS = {**SHAPES, "pydoc-llama": trained}


CHECKS = {f"{shape}-{check}": check for shape, model in MODELS.items() for check in architecture_checks(LLAMA, model)}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_llama(check):
    check()
