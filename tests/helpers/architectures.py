"""Tiny random models of several families, with their architectures as data, for what must hold for all of them."""

import torch
from hgsp_gemma import GEMMA2, GEMMA3
from hgsp_llama import LLAMA
from hgsp_mistral import MISTRAL, MIXTRAL
from hgsp_more import GLM4, GRANITE, OLMO2, OLMO3, SMOLLM3
from hgsp_phi import PHI3
from hgsp_qwen import QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    Glm4Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from hgsp_core.model.layout import Layout, read_layout

ARCHITECTURES = {a.model_type: a for a in (LLAMA, MISTRAL, MIXTRAL, QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE)}
ARCHITECTURES |= {a.model_type: a for a in (GEMMA2, GEMMA3, PHI3, OLMO2, OLMO3, GRANITE, SMOLLM3, GLM4)}

SHAPE = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=False,
)
#: for families whose defaults name ids of a larger vocabulary
NO_IDS = dict(pad_token_id=None, bos_token_id=None, eos_token_id=None)
#: of norms over all heads: among zeros it would count more than among the kept heads alone
EPSILON = dict(rms_norm_eps=1e-12)
HEADS_OF_8 = dict(head_dim=8, query_pre_attn_scalar=8)
MULTIPLIERS = dict(embedding_multiplier=6.0, attention_multiplier=0.25, residual_multiplier=0.3, logits_scaling=4.0)


def every_other(num_hidden_layers=SHAPE["num_hidden_layers"], **_):
    """Layers of two kinds in turns."""
    return [("sliding_attention", "full_attention")[i % 2] for i in range(num_hidden_layers)]


CONFIGS = {
    "llama": lambda **kw: LlamaConfig(**{**SHAPE, **kw}),
    "llama-biases": lambda **kw: LlamaConfig(**{**SHAPE, "attention_bias": True, "mlp_bias": True, **kw}),
    "llama-tied": lambda **kw: LlamaConfig(**{**SHAPE, "tie_word_embeddings": True, **kw}),
    "mistral": lambda **kw: MistralConfig(**{**SHAPE, "head_dim": 8, "sliding_window": None, **kw}),
    "mistral-window": lambda **kw: MistralConfig(**{**SHAPE, "sliding_window": 5, **kw}),
    "qwen2": lambda **kw: Qwen2Config(**{**SHAPE, **kw}),
    "qwen2-window": lambda **kw: Qwen2Config(
        **{**SHAPE, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2, **kw}
    ),
    "qwen3": lambda **kw: Qwen3Config(**{**SHAPE, "head_dim": 8, **kw}),
    "gemma2-window": lambda **kw: Gemma2Config(**{**SHAPE, **NO_IDS, **HEADS_OF_8, "sliding_window": 5, **kw}),
    "gemma3-window": lambda **kw: Gemma3TextConfig(
        **{**SHAPE, **NO_IDS, **HEADS_OF_8, "sliding_window": 5, "layer_types": every_other(**kw), **kw}
    ),
    "phi3": lambda **kw: Phi3Config(**{**SHAPE, **NO_IDS, **kw}),
    "olmo2": lambda **kw: Olmo2Config(**{**SHAPE, **NO_IDS, **EPSILON, **kw}),
    "olmo3-window": lambda **kw: Olmo3Config(**{**SHAPE, **NO_IDS, **EPSILON, "sliding_window": 5, **kw}),
    "granite": lambda **kw: GraniteConfig(**{**SHAPE, **MULTIPLIERS, **kw}),
    "smollm3": lambda **kw: SmolLM3Config(**{**SHAPE, **NO_IDS, "no_rope_layer_interval": 2, **kw}),
    "glm4": lambda **kw: Glm4Config(**{**SHAPE, **NO_IDS, "head_dim": 8, "attention_bias": True, **kw}),
}
EXPERTS = {**SHAPE, "num_experts_per_tok": 2}
#: with experts in all layers, in all but one, and with a shared one in every other layer
WITH_EXPERTS = {
    "mixtral": lambda **kw: MixtralConfig(**{**EXPERTS, "head_dim": 8, "num_local_experts": 6, **kw}),
    "qwen3_moe": lambda **kw: Qwen3MoeConfig(
        **EXPERTS
        | {"head_dim": 8, "num_experts": 6, "moe_intermediate_size": 16, "norm_topk_prob": True, "mlp_only_layers": [1]}
        | kw
    ),
    "qwen2_moe": lambda **kw: Qwen2MoeConfig(
        **EXPERTS
        | {
            "num_experts": 6,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 24,
            "decoder_sparse_step": 2,
        }
        | kw
    ),
}


def tiny_model(kind: str, seed: int = 0, dtype: torch.dtype = torch.float32, **config):
    """A random model whose norms and biases are not the neutral ones they start as."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config((CONFIGS | WITH_EXPERTS)[kind](**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.mul_(4)  # far enough from the linear regime for attention and gates to matter
    return model.to(dtype)


def layout_of(model) -> Layout:
    config = model.config.to_dict()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return read_layout(ARCHITECTURES[config["model_type"]], config, shapes)
