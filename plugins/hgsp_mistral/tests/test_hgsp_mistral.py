"""The Mistral plugin passes the conformance kit: on random models of real shapes, scaled, and on trained weights.

No trained Mistral is small enough to ship. The trained model here is models/pydoc-llama in Mistral's class, which without a
sliding window is the same network: its logits are equal, so it is a trained Mistral in all but its history.
"""

from functools import cache
from pathlib import Path

import pytest
import torch
from hgsp_mistral import MISTRAL, MIXTRAL
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, MixtralConfig

from hgsp_core.testing import architecture_checks

TRAINED = Path(__file__).parents[3] / "models" / "pydoc-llama"

MISTRAL_7B_V03 = dict(
    vocab_size=80,
    hidden_size=128,
    intermediate_size=448,
    num_attention_heads=32,
    num_key_value_heads=8,
    num_hidden_layers=3,
    max_position_embeddings=64,
    sliding_window=None,
)
MIXTRAL_8X7B = MISTRAL_7B_V03 | {"intermediate_size": 56, "num_local_experts": 8, "num_experts_per_tok": 2}
SHAPES = {
    "mistral-7b-v0.3": (MISTRAL, MistralConfig(**MISTRAL_7B_V03)),
    "mistral-7b-v0.1 (window)": (MISTRAL, MistralConfig(**MISTRAL_7B_V03 | {"sliding_window": 5})),
    "mistral-nemo (head_dim of its own)": (MISTRAL, MistralConfig(**MISTRAL_7B_V03 | {"head_dim": 2})),
    "mixtral-8x7b": (MIXTRAL, MixtralConfig(**MIXTRAL_8X7B)),
    "mixtral with a window (tied)": (
        MIXTRAL,
        MixtralConfig(**MIXTRAL_8X7B | {"sliding_window": 5, "tie_word_embeddings": True}),
    ),
}


@cache
def llama():
    return AutoModelForCausalLM.from_pretrained(TRAINED, dtype=torch.float32).eval()


@cache
def rehoused():
    config = llama().config.to_dict() | {"model_type": "mistral", "architectures": None, "sliding_window": None}
    model = MistralForCausalLM(MistralConfig(**config)).eval()
    model.load_state_dict(llama().state_dict())
    return model


@torch.no_grad()
def test_the_trained_weights_compute_the_same_as_a_mistral():
    tokens = torch.randint(1024, (2, 32), generator=torch.Generator().manual_seed(0))
    assert torch.equal(rehoused()(tokens).logits, llama()(tokens).logits)


MODELS = {**SHAPES, "pydoc-llama as mistral": (MISTRAL, rehoused)}


CHECKS = {
    f"{shape}-{check}": check
    for shape, (architecture, model) in MODELS.items()
    for check in architecture_checks(architecture, model)
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_mistral(check):
    check()
