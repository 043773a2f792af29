"""The Gemma plugin passes the conformance kit on random models of real shapes, scaled.

No trained Gemma may be shipped. The norms between blocks and stream would change what trained Llama weights compute.
"""

import pytest
from hgsp_gemma import GEMMA2, GEMMA3
from transformers import Gemma2Config, Gemma3TextConfig

from hgsp_core.testing import architecture_checks

GEMMA2_2B = dict(
    vocab_size=80,
    hidden_size=72,
    intermediate_size=288,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=8,
    query_pre_attn_scalar=8,
    num_hidden_layers=4,
    max_position_embeddings=64,
    sliding_window=5,
    pad_token_id=None,
    bos_token_id=None,
    eos_token_id=None,
)
GEMMA2_9B = GEMMA2_2B | dict(
    hidden_size=112, intermediate_size=448, num_attention_heads=16, num_key_value_heads=8, query_pre_attn_scalar=7
)
GEMMA3_270M = GEMMA2_2B | dict(
    hidden_size=40,
    intermediate_size=128,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=16,
    query_pre_attn_scalar=16,
    num_hidden_layers=7,  # the sixth attends to all tokens
)
GEMMA3_1B = GEMMA3_270M | dict(hidden_size=72, intermediate_size=432)
GEMMA3_4B = GEMMA3_270M | dict(hidden_size=80, intermediate_size=320, num_attention_heads=8, num_key_value_heads=4)
SHAPES = {
    "gemma-2-2b": (GEMMA2, Gemma2Config(**GEMMA2_2B)),
    "gemma-2-9b": (GEMMA2, Gemma2Config(**GEMMA2_9B)),
    "gemma-2 untied, with biases": (
        GEMMA2,
        Gemma2Config(**GEMMA2_2B, attention_bias=True, tie_word_embeddings=False),
    ),
    "gemma-3-270m": (GEMMA3, Gemma3TextConfig(**GEMMA3_270M)),
    "gemma-3-1b": (GEMMA3, Gemma3TextConfig(**GEMMA3_1B)),
    "gemma-3-4b (text) untied, with biases": (
        GEMMA3,
        Gemma3TextConfig(**GEMMA3_4B, attention_bias=True, tie_word_embeddings=False),
    ),
}


CHECKS = {
    f"{shape}-{check}": check
    for shape, (architecture, model) in SHAPES.items()
    for check in architecture_checks(architecture, model)
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_gemma(check):
    check()
