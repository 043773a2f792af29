"""Further families pass the conformance kit on random models of real shapes, scaled."""

import pytest
from hgsp_more import GLM4, GRANITE, OLMO2, OLMO3, SMOLLM3
from transformers import Glm4Config, GraniteConfig, Olmo2Config, Olmo3Config, SmolLM3Config

from hgsp_core.testing import architecture_checks

BASE = dict(
    vocab_size=80,
    hidden_size=64,
    intermediate_size=256,
    num_attention_heads=16,
    num_key_value_heads=16,
    num_hidden_layers=4,
    max_position_embeddings=64,
    tie_word_embeddings=False,
    pad_token_id=None,
    bos_token_id=None,
    eos_token_id=None,
)
#: masked heads add the epsilon of the norms over all heads to another mean than removed ones: real models' 1e-6 is visible here
OLMO2_1B = BASE | dict(rms_norm_eps=1e-12)
OLMO2_7B = OLMO2_1B | dict(hidden_size=128, intermediate_size=344, num_attention_heads=32, num_key_value_heads=32)
OLMO2_32B = OLMO2_1B | dict(hidden_size=80, intermediate_size=432, num_attention_heads=40, num_key_value_heads=8)
OLMO3_7B = OLMO2_7B | dict(sliding_window=5)
GRANITE3_2B = BASE | dict(
    hidden_size=128,
    intermediate_size=512,
    num_attention_heads=32,
    num_key_value_heads=8,
    embedding_multiplier=12.0,
    attention_multiplier=0.25,
    residual_multiplier=0.22,
    logits_scaling=8.0,
    tie_word_embeddings=True,
)
GRANITE3_8B = GRANITE3_2B | dict(intermediate_size=400, logits_scaling=16.0, tie_word_embeddings=False)
#: every fourth layer has no rotary positions
SMOLLM3_3B = BASE | dict(intermediate_size=344, num_key_value_heads=4, tie_word_embeddings=True)
GLM4_9B = BASE | dict(
    hidden_size=128,
    intermediate_size=428,
    num_attention_heads=32,
    num_key_value_heads=2,
    head_dim=4,
    attention_bias=True,
)
SHAPES = {
    "olmo-2-1b": (OLMO2, Olmo2Config(**OLMO2_1B)),
    "olmo-2-7b": (OLMO2, Olmo2Config(**OLMO2_7B)),
    "olmo-2-32b with biases (tied)": (
        OLMO2,
        Olmo2Config(**OLMO2_32B | {"attention_bias": True, "tie_word_embeddings": True}),
    ),
    "olmo-3-7b": (OLMO3, Olmo3Config(**OLMO3_7B)),
    "olmo-3-7b (tied)": (OLMO3, Olmo3Config(**OLMO3_7B | {"tie_word_embeddings": True})),
    "granite-3-2b (tied)": (GRANITE, GraniteConfig(**GRANITE3_2B)),
    "granite-3-8b": (GRANITE, GraniteConfig(**GRANITE3_8B)),
    "granite-3-8b with biases": (GRANITE, GraniteConfig(**GRANITE3_8B, attention_bias=True, mlp_bias=True)),
    "smollm3-3b (tied)": (SMOLLM3, SmolLM3Config(**SMOLLM3_3B)),
    "smollm3-3b with biases": (
        SMOLLM3,
        SmolLM3Config(**SMOLLM3_3B | {"tie_word_embeddings": False}, attention_bias=True, mlp_bias=True),
    ),
    "smollm3 with windows": (
        SMOLLM3,
        SmolLM3Config(**SMOLLM3_3B, use_sliding_window=True, sliding_window=5),
    ),
    "glm-4-9b": (GLM4, Glm4Config(**GLM4_9B)),
    "glm-4-9b without biases (tied)": (
        GLM4,
        Glm4Config(**GLM4_9B | {"attention_bias": False, "tie_word_embeddings": True}),
    ),
}


CHECKS = {
    f"{shape}-{check}": check
    for shape, (architecture, model) in SHAPES.items()
    for check in architecture_checks(architecture, model)
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_more(check):
    check()
