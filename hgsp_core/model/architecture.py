"""A model family as data: nothing of it is code."""

from __future__ import annotations

from dataclasses import dataclass

#: version of the contracts that a plugin is written for
API = 1


@dataclass(frozen=True)
class Slice:
    """One linear that an axis cuts: `module` relative to the layer, `dim` 0 = output rows (bias follows), 1 = input columns."""

    module: str
    dim: int


@dataclass(frozen=True)
class Axis:
    """One prunable dimension of a decoder layer, and the block (residual branch) that it lives in.

    units   config key that counts the units; rows per unit = weight.shape[dim] / config[units]
    scales  config keys that shrink in proportion (query heads with KV heads)
    block   module, relative to the layer, whose output is added to the residual stream
    fixed   modules that no unit owns and that leave only with the whole block (its norm, q/k norms)
    cache   linears whose outputs a decoder keeps for every past token; empty = the block does not mix tokens
    """

    name: str
    units: str
    block: str
    slices: tuple[Slice, ...]
    fixed: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    cache: tuple[str, ...] = ()


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
