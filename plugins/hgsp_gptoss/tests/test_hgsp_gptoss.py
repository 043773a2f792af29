"""The gpt-oss plugin passes the conformance kit on random models of real shapes, scaled: sliding and full layers in turn."""

import pytest
from hgsp_gptoss import GPT_OSS
from transformers import GptOssConfig

from hgsp_core.testing import architecture_checks

GPT_OSS_20B = dict(
    vocab_size=80,
    hidden_size=64,
    intermediate_size=32,
    num_attention_heads=16,
    num_key_value_heads=2,
    head_dim=8,
    num_hidden_layers=4,
    num_local_experts=8,
    num_experts_per_tok=4,
    sliding_window=5,
    max_position_embeddings=64,
)
SHAPES = {
    "gpt-oss-20b": GptOssConfig(**GPT_OSS_20B),
    "gpt-oss without biases of attention": GptOssConfig(**GPT_OSS_20B, attention_bias=False),
}


CHECKS = {f"{shape}-{check}": check for shape, model in SHAPES.items() for check in architecture_checks(GPT_OSS, model)}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_gpt_oss(check):
    check()
