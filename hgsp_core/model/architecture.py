"""A model family as data: nothing of it is code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: version of the contracts that a plugin is written for
API = 1


@dataclass(frozen=True)
class Slice:
    """What an axis cuts of one module: `module` relative to the layer, `dim` 0 = output rows (bias follows), 1 = input columns.

    A fused linear has a slice for each of its parts, in the order in which they lie in it; its lines are shared out in
    proportion to the config keys `rows` (empty = `units`).

    bare  `module` is the name of a parameter, not of a module with a `weight`
    """

    module: str
    dim: int
    rows: str = ""
    bare: bool = False


@dataclass(frozen=True)
class Axis:
    """One prunable dimension of a decoder layer, and the block (residual branch) that it lives in.

    units   config key that counts the units; rows per unit = weight.shape[dim] / config[units]
    scales  config keys that shrink in proportion (query heads with KV heads)
    block   module, relative to the layer, whose output is added to the residual stream
    fixed   modules that no unit owns, removed only with the entire block (its norms, q/k norms of single heads)
    cache   linears whose outputs a decoder keeps for every past token, MODULE[i] for part i of a fused one; empty = the block
            does not mix tokens
    norms   norms over the heads of all units (OLMo 2's q_norm and k_norm), which lose entries with them
    after   the norm that the block's output goes through before it is added; empty = none
    gain    config key of the number that the block's output is multiplied by before it is added; empty = none
    pair    whether the block returns its output as the first of two things

    optional  layers may lack the axis: the tensors that are there decide
    router    module that chooses units for each token, which are experts then: a slice with dim 0, as all others of the axis
    chosen    config key of the number of experts that a token goes to
    absent    config key of the list of layers without the axis;  with_absent  config values under which it is that list alone
    """

    name: str
    units: str
    block: str
    slices: tuple[Slice, ...]
    fixed: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    cache: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    after: str = ""
    gain: str = ""
    pair: bool = False
    optional: bool = False
    router: str = ""
    chosen: str = "num_experts_per_tok"
    absent: str = ""
    with_absent: Mapping[str, Any] = field(default_factory=dict)

    def slice_names(self) -> list[str]:
        """Names of the slices: the module, or MODULE[i] for part i of a fused one."""
        modules = [s.module for s in self.slices]
        return [m if modules.count(m) == 1 else f"{m}[{modules[:i].count(m)}]" for i, m in enumerate(modules)]

    @property
    def adds(self) -> str:
        """The module whose output, times the gain, is added to the residual stream."""
        return self.after or self.block


@dataclass(frozen=True)
class Relative:
    """Another family with the same network, whose class holds sizes that the family's own cannot, or not everywhere.

    values       config values that make it the same network
    zero_biases  linears that need a bias of zeros in it
    biases       whether it has a place for biases;  windows  for layers with a sliding window
    preferred    whether to use it also where the family's own class takes a number of heads whose sizes do not add up to the
                 hidden size: other programs may ignore `head_dim` there
    """

    model_type: str
    values: Mapping[str, Any]
    zero_biases: tuple[str, ...] = ()
    biases: bool = True
    windows: bool = True
    preferred: bool = False


@dataclass(frozen=True)
class Architecture:
    """A model family as data: where its parts are, and the axes along which its layers shrink.

    relative  another family, for sizes that this one's class cannot hold
    gguf      llama.cpp's architecture for layers of equal sizes; empty = none that is known to compute the same
    renamed   config keys that mean the same as others: name -> the one that axes use
    stored    tensors that files hold in parts: name in a layer -> names of the parts in a layer, one under the other; with
              `{expert}` in them there are as many of each as experts. Files that hold the tensor itself are read, too
    """

    model_type: str
    layers: str
    embed: str
    norm: str
    head: str
    axes: tuple[Axis, ...]
    summary: str = ""
    api: int = API
    relative: Relative | None = None
    gguf: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its key in the registry: the model_type."""
        return self.model_type


#: grouped-query attention and a gated MLP, each behind its norm, by the names that most families of transformers give them
GROUPED_ATTENTION = Axis(
    name="attention",
    units="num_key_value_heads",
    scales=("num_attention_heads",),
    block="self_attn",
    fixed=("input_layernorm",),
    cache=("self_attn.k_proj", "self_attn.v_proj"),
    slices=(
        Slice("self_attn.q_proj", 0),
        Slice("self_attn.k_proj", 0),
        Slice("self_attn.v_proj", 0),
        Slice("self_attn.o_proj", 1),
    ),
)
GATED_MLP = Axis(
    name="mlp",
    units="intermediate_size",
    block="mlp",
    fixed=("post_attention_layernorm",),
    slices=(Slice("mlp.gate_proj", 0), Slice("mlp.up_proj", 0), Slice("mlp.down_proj", 1)),
)
#: a router and gated experts in its place, as transformers holds them in memory: all experts of a layer in one tensor
GATED_EXPERTS = Axis(
    name="experts",
    units="num_local_experts",
    block="mlp",
    fixed=("post_attention_layernorm",),
    slices=(
        Slice("mlp.gate", 0),
        Slice("mlp.experts.gate_up_proj", 0, bare=True),
        Slice("mlp.experts.down_proj", 0, bare=True),
    ),
    router="mlp.gate",
)


def pre_norm_decoder(
    model_type: str,
    summary: str = "",
    attention: Axis = GROUPED_ATTENTION,
    mlp: Axis = GATED_MLP,
    relative: Relative | None = None,
    gguf: str = "",
) -> Architecture:
    """A family that names its modules as most do. Biases need no mention: where a linear has one, it follows the rows."""
    return Architecture(
        model_type=model_type,
        summary=summary,
        layers="model.layers",
        embed="model.embed_tokens",
        norm="model.norm",
        head="lm_head",
        axes=(attention, mlp),
        relative=relative,
        gguf=gguf,
    )
