"""A model family as data: nothing of it is code."""

from __future__ import annotations

from dataclasses import dataclass

#: version of the contracts that a plugin is written for
API = 1


@dataclass(frozen=True)
class Slice:
    """What an axis cuts of one module: `module` relative to the layer, `dim` 0 = output rows (bias follows), 1 = input columns.

    A fused linear has a slice for each of its parts, in the order in which they lie in it; its lines are shared out in
    proportion to the config keys `rows`.
    """

    module: str
    dim: int
    rows: str = ""


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

    def slice_names(self) -> list[str]:
        """Names of the slices: the module, or MODULE[i] for part i of a fused one."""
        modules = [s.module for s in self.slices]
        return [m if modules.count(m) == 1 else f"{m}[{modules[:i].count(m)}]" for i, m in enumerate(modules)]

    @property
    def adds(self) -> str:
        """The module whose output, times the gain, is added to the residual stream."""
        return self.after or self.block


@dataclass(frozen=True)
class Architecture:
    """A model family as data: where its parts are, and the axes along which its layers shrink."""

    model_type: str
    layers: str
    embed: str
    norm: str
    head: str
    axes: tuple[Axis, ...]
    summary: str = ""
    api: int = API

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


def pre_norm_decoder(model_type: str, summary: str = "", attention: Axis = GROUPED_ATTENTION) -> Architecture:
    """A family that names its modules as most do. Biases need no mention: where a linear has one, it follows the rows."""
    return Architecture(
        model_type=model_type,
        summary=summary,
        layers="model.layers",
        embed="model.embed_tokens",
        norm="model.norm",
        head="lm_head",
        axes=(attention, GATED_MLP),
    )
