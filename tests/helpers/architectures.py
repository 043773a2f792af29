"""Tiny random models of several families, with their architectures as data, for what must hold for all of them."""

import torch
from hgsp_llama import LLAMA
from hgsp_mistral import MISTRAL
from hgsp_qwen import QWEN2, QWEN3
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from hgsp_core.model.layout import Layout, read_layout

ARCHITECTURES = {a.model_type: a for a in (LLAMA, MISTRAL, QWEN2, QWEN3)}

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
}


def tiny_model(kind: str, seed: int = 0, dtype: torch.dtype = torch.float32, **config):
    """A random model whose norms and biases are not the neutral ones they start as."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind](**config)).eval()
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
