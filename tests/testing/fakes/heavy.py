"""A module that brings torch, as that of a method's class may; but a params class is declared in it."""

import torch  # noqa: F401
from pydantic import Field

from hgsp_core.plugin.method import Params


class HeavyParams(Params):
    power: float = Field(1.0, ge=0, description="exponent")
