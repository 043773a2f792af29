"""The limits that a recipe can set on an allocation: which layers are pruned, and by how much."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from hgsp_core.artifacts import Priors
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.model.layout import BlockLayout, Layout
from hgsp_core.plugin.method import Params


class LayerRange(Params):
    """A half-open range of layers; the others are not pruned."""

    layer_start: int = Field(0, ge=0, description="start of the range (inclusive); layers count from 0")
    layer_end: int | None = Field(None, ge=1, description="end of the range (exclusive); null = all layers")

    @model_validator(mode="after")
    def _not_empty(self) -> LayerRange:
        if self.layer_end is not None and self.layer_end <= self.layer_start:
            raise ValueError(f"layer_end ({self.layer_end}) must be above layer_start ({self.layer_start})")
        return self


class LayerLimits(LayerRange):
    """Which layers are not pruned."""

    freeze_first: int = Field(0, ge=0, description="number of first layers that are not pruned")
    freeze_last: int = Field(0, ge=0, description="number of last layers that are not pruned")
    freeze_most_important: int = Field(
        0, ge=0, description="number of layers with the highest prior that are not pruned"
    )


class SizeLimits(Params):
    """How many units a block keeps."""

    min_heads: int = Field(0, ge=0, description="minimum number of KV heads (attention groups) to keep in each layer")
    min_channels: int = Field(0, ge=0, description="minimum number of MLP channels to keep in each layer")
    channel_multiple: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="the kept channels of every pruned MLP are a multiple of this; auto = the largest of 128, 64, 32, 16, 8 that costs "
        "the plan less than 1 % (of the predicted KL or the removed scores), 1 for MLPs of fewer than 1024 channels",
    )

    @property
    def multiple(self) -> int:
        """The number that allocators use; where `auto` matters, a number has replaced it (`multiple.py`)."""
        return 1 if self.channel_multiple == "auto" else self.channel_multiple


class RateLimits(LayerLimits, SizeLimits):
    """How much of a layer may be removed."""

    layer_min_rate: float = Field(0.0, ge=0, le=1, description="minimum rate of each layer, 0..1, to within one unit")
    layer_max_rate: float = Field(
        1.0, ge=0, le=1, description="maximum rate of each layer, 0..1; 1 = the layer may be removed"
    )

    @model_validator(mode="after")
    def _ordered_rates(self) -> RateLimits:
        low, high = self.layer_min_rate, self.layer_max_rate
        if low > high:
            raise ValueError(f"layer_min_rate ({low:g}) must not be above layer_max_rate ({high:g})")
        return self


class ShareLimits(Params):
    """How attention and MLPs share the budget."""

    pruning_distribution: str | None = Field(
        None, description='split of the budget, "attention:mlp", such as "5:5" or "0:10"; null = one shared budget'
    )

    @field_validator("pruning_distribution", mode="before")
    @classmethod
    def _two_shares(cls, value: Any) -> Any:
        if type(value) is int:  # YAML 1.1 reads an unquoted 5:5 as five times sixty plus five
            raise ValueError('write it in quotes, such as "5:5"')
        if isinstance(value, str):
            if not re.fullmatch(r"\d+(\.\d+)?:\d+(\.\d+)?", value):
                raise ValueError('write it as attention:mlp, such as "5:5" or "0:10"')
            if not any(float(part) for part in value.split(":")):
                raise ValueError("needs one share above 0")
        return value

    @property
    def attention_share(self) -> float | None:
        """Share of the budget for attention, 0..1; None = one shared budget."""
        if self.pruning_distribution is None:
            return None
        attention, mlp = (float(part) for part in self.pruning_distribution.split(":"))
        return attention / (attention + mlp)


class Limits(RateLimits, ShareLimits):
    """Every limit of an allocation."""


def mixes_tokens(block: BlockLayout) -> bool:
    """Whether the block is attention, which caches past tokens; other blocks are MLPs."""
    return bool(block.axis.cache)


def in_range(layers: LayerRange, layout: Layout, place: str) -> np.ndarray:
    """[layers] bool: inside the range.

    Raises:
        PlanError: the model has fewer layers; `place` is the recipe key of the range.
    """
    count = len(layout.layers)
    end = count if layers.layer_end is None else layers.layer_end
    for key, value, highest in (("layer_start", layers.layer_start, count - 1), ("layer_end", end, count)):
        if value > highest:
            raise PlanError.no_such_layer(f"{place}.{key}", value, count, highest)
    return (np.arange(count) >= layers.layer_start) & (np.arange(count) < end)


def prunable_layers(limits: LayerLimits, layout: Layout, priors: Priors | None) -> np.ndarray:
    """[layers] bool: whether the layer may be pruned."""
    prunable = in_range(limits, layout, "allocate.with.limits")
    prunable[: limits.freeze_first] = False
    prunable[max(0, len(prunable) - limits.freeze_last) :] = False
    if limits.freeze_most_important:
        most_important_first = np.argsort(-finite_layer_priors(priors), kind="stable")
        prunable[most_important_first[: limits.freeze_most_important]] = False
    return prunable


def finite_layer_priors(priors: Priors | None) -> np.ndarray:
    """[layers], checked.

    Raises:
        PlanError: a layer's prior is not a number.
    """
    assert priors is not None  # `needs_priors` asked for them
    values = np.asarray(priors.layer, dtype=np.float64)
    if not np.isfinite(values).all():
        raise PlanError.no_prior(int(np.flatnonzero(~np.isfinite(values))[0]))
    return values


def of_blocks(values: np.ndarray, layout: Layout) -> np.ndarray:
    """[blocks]: the value of each block's layer. values [layers]."""
    return values[[block.layer for block in layout.blocks()]]


def floors(limits: SizeLimits, layout: Layout, prunable: np.ndarray) -> np.ndarray:
    """[blocks]: minimum units to keep. prunable [blocks] bool; a block that is not prunable keeps all units."""
    blocks = layout.blocks()
    units = np.array([block.units for block in blocks])
    least = [limits.min_heads if mixes_tokens(b) else 0 if b.routed else limits.min_channels for b in blocks]
    return np.where(prunable, np.minimum(least, units), units)


def in_force(params: Params) -> list[str]:
    """The limits that a recipe changed, as `allocate.with.limits.freeze_first: 3`."""
    changed = params.model_dump(exclude_defaults=True)
    return [
        f"allocate.with.{group}.{key}: {value}"
        for group, limits in changed.items()
        if isinstance(limits, dict)
        for key, value in limits.items()
        if (key, value) != ("channel_multiple", 1)
    ]
