"""A language model whose layers differ in size: the family's own model (Llama, Mistral, Qwen, ...) with other layers.

This file travels inside every non-uniform pruned checkpoint, so that transformers alone can run it
(`AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)`). It needs transformers 5.20 or later.

config.json is the family's own, plus
    base_model_type   the family, a `model_type` that transformers knows
    per_layer_config  {"3": {"num_key_value_heads": 2, "intermediate_size": 96}, "5": {"skip": ["attention"]}}:
                      where a layer differs from the values at the top
    blocks            {"attention": ["self_attn", "input_layernorm"], ...}: what a skip removes, module and norms
    pairs             the blocks whose module returns its output as the first of two things
"""

from functools import cache

import torch
import transformers
from packaging.version import Version
from torch import nn

if Version(transformers.__version__) < Version("5.20.dev0"):
    raise ImportError(
        f"This checkpoint needs transformers 5.20 or later, this is {transformers.__version__}: pip install -U transformers"
    )

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

#: a removed attention in `layer_types`, as earlier versions of this file had it
NO_ATTENTION = "moe"
#: what transformers calls the KV cache: `cache` from 5.24 on
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


class HgspConfig(PreTrainedConfig):
    """The family's config, whose defaults and derived values are taken over, and what layers differ in."""

    model_type = "hgsp"
    keys_to_ignore_at_inference = ["past_key_values"]

    base_model_type: str | None = None
    blocks: dict[str, list[str]] | None = None
    pairs: list[str] | None = None

    @property
    def attribute_map(self):
        # the family's; found without `self.`, which asks for the map itself
        family = object.__getattribute__(self, "__dict__").get("base_model_type")
        return CONFIG_MAPPING[family].attribute_map if family in CONFIG_MAPPING else {}

    def __post_init__(self, **kwargs):
        per_layer_config = kwargs.pop("per_layer_config", None)
        if self.base_model_type is not None:  # transformers also builds a config without arguments, for comparison
            if kinds := kwargs.get("layer_types"):
                known = [kind for kind in kinds if kind != NO_ATTENTION] or ["full_attention"]
                kwargs["layer_types"] = [known[0] if kind == NO_ATTENTION else kind for kind in kinds]
            family = CONFIG_MAPPING[self.base_model_type](**kwargs)
            if "layer_types" not in vars(family):
                kwargs.pop("layer_types", None)  # generate() would hand the family masks by kind
            own = set(PreTrainedConfig().__dict__) | set(self.__dict__)
            for old in (
                "rope_scaling",
                "rope_theta",
                "partial_rotary_factor",
            ):  # the family has made rope_parameters of them
                kwargs.pop(old, None)
            kwargs.update({key: value for key, value in family.__dict__.items() if key not in own})
        super().__post_init__(**kwargs, per_layer_config=per_layer_config)
        # tools that know one size for all layers get the original model's (and a warning) instead of an exception
        self.allow_global_per_layer_attribute_access = True

    @property
    def _attn_implementation(self):
        # a layer's config is a copy: it would miss a later change of the attention implementation, and so the causal mask
        return vars(self).get("_whole", self)._attn_implementation_internal

    @_attn_implementation.setter
    def _attn_implementation(self, value):
        PreTrainedConfig._attn_implementation.fset(self, value)

    @property
    def _experts_implementation(self):
        return vars(self).get("_whole", self)._experts_implementation_internal

    @_experts_implementation.setter
    def _experts_implementation(self, value):
        PreTrainedConfig._experts_implementation.fset(self, value)


class RemovedMLP(nn.Module):
    """In place of a removed MLP, or of removed experts: adds nothing to the residual stream."""

    def __init__(self, pair: bool):
        super().__init__()
        self.pair = pair

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, None]:
        nothing = hidden_states.new_zeros(())
        return (nothing, None) if self.pair else nothing


class RemovedAttention(nn.Module):
    """In place of a removed attention: adds nothing to the residual stream, and has no weights to return.

    Caches and vLLM count on one attention in each layer. A cache is handed one zero a token (or as many as it has made
    room for), and vLLM the one KV head that config.json gives the layer.
    """

    def __init__(self, config: HgspConfig, index: int):
        super().__init__()
        self.config, self.layer_idx = config, index

    def forward(self, hidden_states: torch.Tensor, attention_mask=None, **kwargs) -> tuple[torch.Tensor, None]:
        def nothing(heads: int, size: int) -> torch.Tensor:
            return hidden_states.new_zeros((hidden_states.shape[0], heads, hidden_states.shape[1], size))

        config, cache = self.config, kwargs.get(CACHE)
        if cache is not None:
            layer = cache.layers[self.layer_idx] if self.layer_idx < len(cache.layers) else None
            keys = getattr(layer, "keys", None)
            key = nothing(config.num_key_value_heads, 1 if keys is None else keys.shape[-1])
            cache.update(key, key, self.layer_idx)
        if config._attn_implementation == "vllm":
            attend = ALL_ATTENTION_FUNCTIONS.get_interface("vllm", None)
            query, key = (nothing(n, config.head_dim) for n in (config.num_attention_heads, config.num_key_value_heads))
            attend(self, query, key, key, attention_mask, **kwargs)
        return hidden_states.new_zeros(()), None


def build_layer(config: HgspConfig, index: int, layer_class: type[nn.Module]) -> nn.Module:
    """The family's decoder layer with this layer's sizes, and without the blocks it skips."""
    own = config.per_layer_config[index]
    vars(own)["_whole"] = config
    layer = layer_class(own, index)
    for block in getattr(own, "skip", []):
        module, *norms = config.blocks[block]
        removed = RemovedAttention(own, index) if block == "attention" else RemovedMLP(block in (config.pairs or ()))
        layer.set_submodule(module, removed)
        for norm in norms:
            layer.set_submodule(norm, nn.Identity())
    return layer


class HgspPreTrainedModel(PreTrainedModel):
    """Its instances are of the family's class, whose forward they use. `families`: config class -> class."""

    config_class = HgspConfig
    base_model_prefix = "model"
    families = None

    def __new__(cls, config=None, *args, **kwargs):
        if cls.families is not None:
            cls = of_family(cls, cls.families[CONFIG_MAPPING[config.base_model_type]])
        return super().__new__(cls)


class HgspModel(HgspPreTrainedModel):
    families = MODEL_MAPPING


class HgspForCausalLM(HgspPreTrainedModel, GenerationMixin):
    families = MODEL_FOR_CAUSAL_LM_MAPPING


@cache
def of_family(own: type[HgspPreTrainedModel], family: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The family's class with layers of different sizes, under the name of `own`, by which checkpoints know it."""

    class Sized(own, family):
        families = None

        def __init__(self, config: HgspConfig):
            layers, config.num_hidden_layers = config.num_hidden_layers, 1
            try:
                family.__init__(self, config)  # with one layer, which tells the class of all
            finally:
                config.num_hidden_layers = layers
            decoder = self.base_model
            layer_class = type(decoder.layers[0])
            decoder.layers = nn.ModuleList([build_layer(config, index, layer_class) for index in range(layers)])
            self.post_init()

        @classmethod
        def _can_set_experts_implementation(cls):
            return family._can_set_experts_implementation()  # which looks into the source of the class

    Sized.__name__, Sized.__qualname__, Sized.__module__ = own.__name__, own.__qualname__, own.__module__
    return Sized
