"""Parameters of the searched allocation; read without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hgsp_core.allocate.hgsp import GateParams


class SearchParams(GateParams):
    """Those of H-GSP, whose plan the search starts from, and how long it searches."""

    temperature: float = Field(
        0.0, ge=0, le=10, description="exponent T of the gate of the plan to start from; 0 = no gate"
    )
    query_heads: bool = Field(
        True,
        description="true = attention may also lose single query heads, as many in every group of a layer; its KV heads stay",
    )
    samples: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="windows of the calibration set, its last ones, that judge a plan, the others measure the model; auto = as "
        "many as `forwards` allows, 2 at the least; never fewer than processes",
    )
    forwards: float = Field(
        2.0,
        gt=0,
        le=100,
        description="what the search of blocks may cost, in forwards over the calibration set, where `samples` is auto",
    )
    moves: int = Field(
        0,
        ge=0,
        description="plans to try once every block has been tried by itself, each repaired; they hold where they do better on both "
        "halves of the other windows, the repair fitted to the other half, by more than a standard error",
    )
    seed: int = Field(0, ge=0, description="which moves are tried")
