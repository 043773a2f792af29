"""Model families with one fault each, registered with transformers in this process only."""

from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
)


class OnlyHereConfig(LlamaConfig):
    model_type = "fake-only-here"


class OnlyHereModel(LlamaModel):
    config_class = OnlyHereConfig


class OnlyHereForCausalLM(LlamaForCausalLM):
    """Right in all but that no other process knows it."""

    config_class = OnlyHereConfig


class WidthConfig(LlamaConfig):
    model_type = "fake-width"


class WidthModel(LlamaModel):
    config_class = WidthConfig


class WidthForCausalLM(LlamaForCausalLM):
    """Scales its logits by the number of heads, which is 6 in the models of the tests."""

    config_class = WidthConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * (self.config.num_attention_heads / 6)
        return output


class GroupedConfig(LlamaConfig):
    model_type = "fake-grouped"


class GroupedModel(LlamaModel):
    config_class = GroupedConfig


class GroupedForCausalLM(LlamaForCausalLM):
    """Scales its logits by the number of query heads for each KV head, which is 2 in the models of the tests."""

    config_class = GroupedConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * (self.config.num_attention_heads / self.config.num_key_value_heads / 2)
        return output


class ForgetfulConfig(LlamaConfig):
    model_type = "fake-forgetful"


class ForgetfulDecoderLayer(LlamaDecoderLayer):
    """Attends to the tokens at hand only, whatever the cache holds."""

    def forward(self, hidden_states, past_key_values=None, **kwargs):
        return super().forward(hidden_states, past_key_values=None, **kwargs)


class ForgetfulModel(LlamaModel):
    config_class = ForgetfulConfig

    def __init__(self, config):
        super().__init__(config)
        self.layers = nn.ModuleList([ForgetfulDecoderLayer(config, i) for i in range(config.num_hidden_layers)])


class ForgetfulForCausalLM(LlamaForCausalLM):
    config_class = ForgetfulConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = ForgetfulModel(config)


class BackwardsConfig(LlamaConfig):
    model_type = "fake-backwards"


class BackwardsModel(LlamaModel):
    """Runs its layers from the last one to the first."""

    config_class = BackwardsConfig

    def forward(self, *args, **kwargs):
        layers = self.layers
        self.layers = nn.ModuleList(reversed(layers))
        try:
            return super().forward(*args, **kwargs)
        finally:
            self.layers = layers


class BackwardsForCausalLM(LlamaForCausalLM):
    config_class = BackwardsConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = BackwardsModel(config)


class HalvedConfig(LlamaConfig):
    model_type = "fake-halved"


class HalvedMLP(LlamaMLP):
    """Adds half of what its down_proj gives."""

    def forward(self, x):
        return super().forward(x) / 2


class HalvedModel(LlamaModel):
    config_class = HalvedConfig

    def __init__(self, config):
        super().__init__(config)
        for layer in self.layers:
            layer.mlp = HalvedMLP(config)


class HalvedForCausalLM(LlamaForCausalLM):
    config_class = HalvedConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = HalvedModel(config)


for config, base, lm in (
    (HalvedConfig, HalvedModel, HalvedForCausalLM),
    (OnlyHereConfig, OnlyHereModel, OnlyHereForCausalLM),
    (WidthConfig, WidthModel, WidthForCausalLM),
    (GroupedConfig, GroupedModel, GroupedForCausalLM),
    (BackwardsConfig, BackwardsModel, BackwardsForCausalLM),
    (ForgetfulConfig, ForgetfulModel, ForgetfulForCausalLM),
):
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, base)
    AutoModelForCausalLM.register(config, lm)
