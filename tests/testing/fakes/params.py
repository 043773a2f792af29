"""Parameters with one fault each, and two without."""

from typing import Any

from pydantic import ConfigDict, Field, field_validator

from hgsp_core.plugin.method import Params


class RatioParams(Params):
    ratio: float = Field(0.2, gt=0, lt=1, description="share of the parameters to remove, 0..1")


class Required(Params):
    path: str = Field(description="has no default")


class Inner(Params):
    power: float = 1.0


class UndescribedParams(Params):
    inner: Inner = Field(Inner(), description="the description of the field inside is missing")


class DoublingParams(Params):
    samples: int = Field(8, description="comes back doubled")

    @field_validator("samples", mode="before")
    @classmethod
    def _twice(cls, value: Any):
        return 2 * value


class OpenParams(Params):
    model_config = ConfigDict(extra="allow")
