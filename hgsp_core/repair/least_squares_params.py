"""Parameters of `least-squares`, apart from the method so that declaring it imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hgsp_core.plugin.method import Params


class LeastSquaresParams(Params):
    target: Literal["auto", "own", "dense", "residual"] = Field(
        "auto",
        description="target of the fit: 'own' = the original block on its pruned input, 'dense' = its output in the dense model, "
        "'residual' = what restores the dense stream; auto = the best on held-out windows",
    )
    ridge: Literal["auto"] | Annotated[float, Field(ge=0)] = Field(
        "auto",
        description="ρ, the ridge as a share of the mean input power; 0 = none; auto = the best of 0.01, 0.1 and 1 on held-out windows, "
        "for each block",
    )
    reselect: bool = Field(
        True,
        description="true = also reselects the units of each block, in the planned number: removes one unit at a time, the one whose "
        "removal costs least after refitting",
    )
    damp: bool = Field(
        False,
        description="true = also scales the output of each block by its standard deviation relative to that in the dense model, if smaller",
    )
    readers: bool = Field(
        True, description="true = also refits q, k, v, gate, up and an untied LM head to match the dense model"
    )
