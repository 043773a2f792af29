"""A language model whose layers differ in size, made of the stock layers of its family (Llama, Mistral, Qwen, ...).

This file travels inside every non-uniform pruned checkpoint, so that transformers alone can run it
(`AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)`). It needs transformers 5.20 or later.

config.json is the family's own, plus
    base_model_type   the family, a `model_type` that transformers knows
    per_layer_config  {"3": {"num_key_value_heads": 2, "intermediate_size": 96}, "5": {"skip": ["attention"]}}:
                      where a layer differs from the values at the top
    blocks            {"attention": ["self_attn", "input_layernorm"], ...}: what a skip removes, module and norms
    layer_types       the attention of each layer; "moe" is transformers' word for a layer without any (no KV cache)
"""

from importlib import import_module

import torch
import transformers
from packaging.version import Version
from torch import nn

if Version(transformers.__version__) < Version("5.20.dev0"):
    raise ImportError(
        f"This checkpoint needs transformers 5.20 or later, this is {transformers.__version__}: pip install -U transformers"
    )

from transformers import CONFIG_MAPPING, MODEL_MAPPING, DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

NO_ATTENTION = "moe"
#: what transformers calls the KV cache: `cache` from 5.24 on
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


class HgspConfig(PreTrainedConfig):
    """The family's config, whose defaults and derived values are taken over, and what layers differ in."""

    model_type = "hgsp"
    keys_to_ignore_at_inference = ["past_key_values"]

    base_model_type: str | None = None
    blocks: dict[str, list[str]] | None = None
    layer_types: list[str] | None = None

    def __post_init__(self, **kwargs):
        per_layer_config = kwargs.pop("per_layer_config", None)
        if self.base_model_type is not None:  # transformers also builds a config without arguments, for comparison
            family = CONFIG_MAPPING[self.base_model_type](**kwargs)
            own = set(PreTrainedConfig().__dict__) | set(self.__dict__)
            for old in (
                "rope_scaling",
                "rope_theta",
                "partial_rotary_factor",
            ):  # the family has made rope_parameters of them
                kwargs.pop(old, None)
            kwargs.update({key: value for key, value in family.__dict__.items() if key not in own})
            known = {NO_ATTENTION, *LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING}
            kinds = self.layer_types
            if kinds is not None and (len(kinds) != family.num_hidden_layers or not known.issuperset(kinds)):
                raise ValueError(
                    f"layer_types must name the attention of each of the {family.num_hidden_layers} layers"
                )
        super().__post_init__(**kwargs, per_layer_config=per_layer_config)
        # tools that know one size for all layers get the original model's (and a warning) instead of an exception
        self.allow_global_per_layer_attribute_access = True


def family_class(config: HgspConfig, part: str) -> type[nn.Module]:
    """A class of the family's modeling file: part "DecoderLayer" of family "llama" is LlamaDecoderLayer."""
    model = MODEL_MAPPING[CONFIG_MAPPING[config.base_model_type]]
    return getattr(import_module(model.__module__), model.__name__.removesuffix("Model") + part)


class RemovedMLP(nn.Module):
    """In place of a removed MLP: adds nothing to the residual stream."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states.new_zeros(())


class RemovedAttention(nn.Module):
    """In place of a removed attention: adds nothing to the residual stream, and has no weights to return.

    vLLM counts on one attention in each layer. It is handed zeros, with the one KV head that config.json gives the layer.
    """

    def __init__(self, config: HgspConfig, index: int):
        super().__init__()
        own = config.per_layer_config[index]
        self.config, self.layer_idx = config, index
        self.query, self.key = ((n, own.head_dim) for n in (own.num_attention_heads, own.num_key_value_heads))

    def forward(self, hidden_states: torch.Tensor, attention_mask=None, **kwargs) -> tuple[torch.Tensor, None]:
        if self.config._attn_implementation == "vllm":
            attend = ALL_ATTENTION_FUNCTIONS.get_interface("vllm", None)
            shapes = ((1, heads, hidden_states.shape[1], size) for heads, size in (self.query, self.key))
            query, key = (hidden_states.new_zeros(shape) for shape in shapes)
            attend(self, query, key, key, attention_mask, **kwargs)
        return hidden_states.new_zeros(()), None


def build_layer(config: HgspConfig, index: int) -> nn.Module:
    """The family's decoder layer with this layer's sizes, and without the blocks it skips."""
    layer_config = config.per_layer_config[index]
    layer = family_class(config, "DecoderLayer")(layer_config, index)
    for block in getattr(layer_config, "skip", []):
        module, *norms = config.blocks[block]
        layer.set_submodule(module, RemovedAttention(config, index) if block == "attention" else RemovedMLP())
        for norm in norms:
            layer.set_submodule(norm, nn.Identity())
    for module in layer.modules():
        # layer_config is a copy: it would miss a later change of the attention implementation, and so the causal mask
        if hasattr(module, "config"):
            module.config = config
    return layer


class HgspPreTrainedModel(PreTrainedModel):
    config_class = HgspConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = [CACHE]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": GradientCheckpointingLayer, "attentions": "self_attn"}


class HgspModel(HgspPreTrainedModel):
    def __init__(self, config: HgspConfig):
        super().__init__(config)
        if config.layer_types is None:
            raise ValueError("config.json has no layer_types, which name the attention of each layer")
        self._no_split_modules = [family_class(config, "DecoderLayer").__name__]
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList([build_layer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = family_class(config, "RMSNorm")(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = family_class(config, "RotaryEmbedding")(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,  # [batch, tokens]
        attention_mask: torch.Tensor | None = None,  # [batch, cached + tokens], 1 = a token, 0 = padding
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,  # the cache, as transformers before 5.24 calls it
        inputs_embeds: torch.FloatTensor | None = None,  # [batch, tokens, hidden], instead of input_ids
        use_cache: bool | None = None,
        cache=None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            past = cache.get_seq_length() if cache is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past)[None]

        masks = attention_mask
        if not isinstance(masks, dict):  # generate() hands over masks that it has made
            masks = {
                kind: LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING[kind](
                    config=self.config,
                    inputs_embeds=inputs_embeds,
                    attention_mask=attention_mask,
                    position_ids=position_ids,
                    **{CACHE: cache},
                )
                for kind in set(self.config.layer_types) - {NO_ATTENTION}
            }

        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        for layer, kind in zip(self.layers, self.config.layer_types, strict=True):
            hidden_states = layer(
                hidden_states,
                attention_mask=masks.get(kind),
                position_ids=position_ids,
                use_cache=use_cache,
                position_embeddings=position_embeddings,
                **{CACHE: cache},
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states), **{CACHE: cache if use_cache else None}
        )


class HgspForCausalLM(HgspPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: HgspConfig):
        super().__init__(config)
        self.model = HgspModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,  # the last n positions (0 = all), or their indices
        cache=None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=past_key_values if cache is None else cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, positions, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: outputs.get(CACHE)},
        )
