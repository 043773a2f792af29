"""Parameters of `least-squares`, apart from the method so that declaring it imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hgsp_core.plugin.method import Params


class LeastSquaresParams(Params):
    target: Literal["auto", "own", "dense", "residual"] = Field(
        "auto",
        description="what a block should give: 'own' = what its old weights make of its input, 'dense' = what it gives in the "
        "dense model, 'residual' = what brings the stream back to the dense one; auto = the best on held-out windows",
    )
    ridge: Literal["auto"] | Annotated[float, Field(ge=0)] = Field(
        "auto",
        description="ρ, the ridge as a share of the mean input power, 0 = none; auto = the best of 0.01, 0.1 and 1 on held-out windows, "
        "for each block: the fewer tokens for so many columns, the larger",
    )
    reselect: bool = Field(
        True,
        description="true = which units of a block stay is also chosen anew, as many as planned: one after another goes the one "
        "without which a fit loses least on the model pruned so far",
    )
    readers: bool = Field(
        True,
        description="true = q, k, v, gate and up are fitted, too, and a head that is not the embedding: to what they read in the "
        "dense model",
    )
