"""Parameters of scorers and priors; read without torch."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from hgsp_core.plugin.errors import PluginError
from hgsp_core.plugin.method import Params


class Taylor2ndParams(Params):
    batch: int = Field(4, ge=1, description="samples per gradient g_b in H = mean of g_b²")


class ObsParams(Params):
    damping: float = Field(
        0.01, gt=0, le=1, description="λ as a share of the mean diagonal of H, 0..1; a larger λ trusts the refit less"
    )


class CurvatureParams(Params):
    damping: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = Field(
        "auto",
        description="λ as a share of the mean diagonal of A, 0..1; auto = the writer's inputs per calibration token, at most 1",
    )
    order: str | None = Field(
        None,
        min_length=1,
        description="scorer whose order the units of a block keep, with its default parameters; null = order of elimination",
    )

    @field_validator("order")
    @classmethod
    def _installed(cls, order: str | None) -> str | None:
        from hgsp_core.plugin import registry

        if order is not None:
            try:
                registry.installed().find("scorer", order)
            except PluginError as error:
                raise ValueError(str(error)) from None
        return order


class RemovalParams(Params):
    samples: int = Field(50, ge=1, description="number of calibration samples, from the first")
