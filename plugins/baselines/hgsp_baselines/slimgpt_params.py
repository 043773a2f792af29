"""Parameters of the reconstructor `slimgpt`, apart from it so that declaring it imports no torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from hgsp_core import Params


class SlimGPTParams(Params):
    damping: float = Field(0.01, gt=0, le=1, description="added to the Hessian's diagonal, a share of its mean, 0..1")
    largest_batch: int = Field(1024, ge=1, description="maximum number of MLP channels removed at a time")
    smallest_batch: int = Field(8, ge=1, description="minimum number of MLP channels removed at a time")

    @model_validator(mode="after")
    def _ordered(self) -> SlimGPTParams:
        if self.smallest_batch > self.largest_batch:
            raise ValueError(f"smallest_batch ({self.smallest_batch}) is above largest_batch ({self.largest_batch})")
        return self
