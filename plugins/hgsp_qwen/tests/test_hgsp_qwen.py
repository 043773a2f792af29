"""The Qwen plugin passes the conformance kit: on random models of real shapes, scaled, and (qwen2) on trained weights.

No trained Qwen is small enough to ship. The trained qwen2 here is models/pydoc-llama in Qwen2's class with small random biases
of q, k and v in place of trained ones: its perplexity stays near the original's (tested), and no bias is zero. Qwen3's norms of
q and k would change what trained Llama weights compute, so qwen3 is tried on random models alone.
"""

from functools import cache
from pathlib import Path

import pytest
import torch
from hgsp_qwen import QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from hgsp_core.data.contract import DatasetJob
from hgsp_core.data.run import open_dataset
from hgsp_core.testing import architecture_checks

TRAINED = Path(__file__).parents[3] / "models" / "pydoc-llama"

QWEN25_7B = dict(
    vocab_size=80,
    hidden_size=112,
    intermediate_size=592,
    num_attention_heads=28,
    num_key_value_heads=4,
    num_hidden_layers=3,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)
QWEN3_8B = QWEN25_7B | dict(
    hidden_size=128, intermediate_size=384, num_attention_heads=32, num_key_value_heads=8, head_dim=4
)
QWEN3_06B = QWEN3_8B | dict(hidden_size=32, intermediate_size=96, num_attention_heads=16, tie_word_embeddings=True)
QWEN3_30B_A3B = QWEN3_8B | dict(
    hidden_size=64, head_dim=4, moe_intermediate_size=24, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True
)
QWEN15_MOE = QWEN25_7B | dict(
    hidden_size=64,
    num_attention_heads=16,
    num_key_value_heads=16,
    moe_intermediate_size=24,
    shared_expert_intermediate_size=56,
    num_experts=6,
    num_experts_per_tok=2,
)
WINDOW = dict(use_sliding_window=True, sliding_window=5, max_window_layers=1)
SHAPES = {
    "qwen2.5-7b": (QWEN2, Qwen2Config(**QWEN25_7B)),
    "qwen2.5-0.5b (tied)": (QWEN2, Qwen2Config(**QWEN25_7B | {"tie_word_embeddings": True})),
    "qwen2.5-7b with a window": (QWEN2, Qwen2Config(**QWEN25_7B, **WINDOW)),
    "qwen3-8b": (QWEN3, Qwen3Config(**QWEN3_8B)),
    "qwen3-0.6b (tied)": (QWEN3, Qwen3Config(**QWEN3_06B)),
    "qwen3 with biases": (QWEN3, Qwen3Config(**QWEN3_8B, attention_bias=True)),
    "qwen3-30b-a3b": (QWEN3_MOE, Qwen3MoeConfig(**QWEN3_30B_A3B)),
    "qwen3-moe with a dense layer": (QWEN3_MOE, Qwen3MoeConfig(**QWEN3_30B_A3B, mlp_only_layers=[1])),
    "qwen1.5-moe": (QWEN2_MOE, Qwen2MoeConfig(**QWEN15_MOE)),
    "qwen2-moe with every other layer dense": (QWEN2_MOE, Qwen2MoeConfig(**QWEN15_MOE, decoder_sparse_step=2)),
}


@cache
def llama():
    return AutoModelForCausalLM.from_pretrained(TRAINED, dtype=torch.float32).eval()


@cache
def rehoused():
    config = llama().config.to_dict() | {"model_type": "qwen2", "architectures": None}
    model = Qwen2ForCausalLM(Qwen2Config(**config)).eval()
    missing, unexpected = model.load_state_dict(llama().state_dict(), strict=False)
    assert not unexpected
    assert len(missing) == 3 * llama().config.num_hidden_layers
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in missing:
            model.get_parameter(name).normal_(std=0.05, generator=generator)
    return model


@torch.no_grad()
def test_the_trained_weights_are_a_trained_qwen2_with_biases():
    text = "".join(open_dataset("pydoc", {}, "here")(DatasetJob("evaluation")))[:4000]
    tokens = AutoTokenizer.from_pretrained(TRAINED)(text, return_tensors="pt").input_ids[:, :512]
    original, with_biases = (model(tokens, labels=tokens).loss for model in (llama(), rehoused()))
    assert not torch.equal(original, with_biases)
    assert abs(original - with_biases) < 0.1
    assert original < 5  # ln(1024) = 6.9 knows nothing


MODELS = {**SHAPES, "pydoc-llama as qwen2": (QWEN2, rehoused)}


CHECKS = {
    f"{shape}-{check}": check
    for shape, (architecture, model) in MODELS.items()
    for check in architecture_checks(architecture, model)
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_qwen(check):
    check()
