"""Parameters of the searched allocation; read without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hgsp_core.allocate.hgsp import GateParams


class SearchParams(GateParams):
    """The parameters of H-GSP, which makes the starting plan, and the cost of the search."""

    temperature: float = Field(0.0, ge=0, le=10, description="exponent T of the gate in the starting plan; 0 = no gate")
    query_heads: bool = Field(
        True,
        description="true = also removes single query heads, the same number from every group of a layer; keeps the KV heads",
    )
    samples: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="number of calibration windows held out to judge plans, taken from the end; auto = as many as `forwards` "
        "allows, at least 2; never fewer than processes",
    )
    forwards: float = Field(
        2.0,
        gt=0,
        le=100,
        description="cost of the block search, in forward passes over the calibration set; used if `samples` is auto",
    )
    moves: int = Field(
        0,
        ge=0,
        description="plans to try after the block search; each is repaired on one half of the other windows, judged on the opposite "
        "half, and accepted if both halves improve by more than a standard error",
    )
    seed: int = Field(0, ge=0, description="seed that draws the moves")
