"""The Phi plugin passes the conformance kit: on random models of real shapes, scaled, and on trained weights.

No trained Phi is small enough to ship. The trained model here is models/pydoc-llama with its linears joined, in Phi-3's
class, which is the same network.
"""

from functools import cache
from pathlib import Path

import pytest
import torch
from hgsp_phi import PHI3
from transformers import AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM

from hgsp_core.testing import architecture_checks

TRAINED = Path(__file__).parents[3] / "models" / "pydoc-llama"

PHI3_MINI = dict(
    vocab_size=80,
    hidden_size=64,
    intermediate_size=176,
    num_attention_heads=8,
    num_key_value_heads=8,
    num_hidden_layers=3,
    max_position_embeddings=64,
    sliding_window=5,
    pad_token_id=None,
    bos_token_id=None,
    eos_token_id=None,
)
PHI4 = PHI3_MINI | dict(
    hidden_size=160, intermediate_size=560, num_attention_heads=40, num_key_value_heads=10, sliding_window=None
)
#: factors for 24 rotary numbers: three quarters of a head of 32
LONG_ROPE = dict(
    rope_type="longrope",
    rope_theta=10000.0,
    partial_rotary_factor=0.75,
    original_max_position_embeddings=32,
    short_factor=[1.0] * 12,
    long_factor=[1.0 + i / 4 for i in range(12)],
)
PHI4_MINI = PHI3_MINI | dict(
    hidden_size=192,
    intermediate_size=512,
    num_attention_heads=6,
    num_key_value_heads=2,
    original_max_position_embeddings=32,
    rope_parameters=LONG_ROPE,
    tie_word_embeddings=True,
)
SHAPES = {
    "phi-3-mini (window)": Phi3Config(**PHI3_MINI),
    "phi-4": Phi3Config(**PHI4),
    "phi-4-mini (tied, partial long rope)": Phi3Config(**PHI4_MINI),
}


@cache
def llama():
    return AutoModelForCausalLM.from_pretrained(TRAINED, dtype=torch.float32).eval()


@cache
def joined():
    config = llama().config.to_dict() | {"model_type": "phi3", "architectures": None, "sliding_window": None}
    model = Phi3ForCausalLM(Phi3Config(**config)).eval()
    tensors = llama().state_dict()
    for fused, parts in (("qkv_proj", ("q_proj", "k_proj", "v_proj")), ("gate_up_proj", ("gate_proj", "up_proj"))):
        for name in [name for name in tensors if parts[0] in name]:
            whole = [tensors.pop(name.replace(parts[0], part)) for part in parts]
            tensors[name.replace(parts[0], fused)] = torch.cat(whole)
    model.load_state_dict(tensors)
    return model


@torch.no_grad()
def test_the_trained_weights_compute_the_same_as_a_phi():
    tokens = torch.randint(1024, (2, 32), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(joined()(tokens).logits, llama()(tokens).logits, rtol=1e-5, atol=1e-5)


MODELS = {**SHAPES, "pydoc-llama as phi3": joined}


CHECKS = {f"{shape}-{check}": check for shape, model in MODELS.items() for check in architecture_checks(PHI3, model)}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_phi(check):
    check()
