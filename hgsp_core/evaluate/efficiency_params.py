"""Parameters of `efficiency`; apart, so that declaring the method imports no torch."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from hgsp_core.plugin.method import Params


class EfficiencyParams(Params):
    batch_sizes: tuple[PositiveInt, ...] = Field((1, 4), min_length=1, description="batch sizes to measure")
    prompt_tokens: int = Field(128, ge=2, description="tokens in the prompt (prefill)")
    new_tokens: int = Field(32, ge=1, description="tokens generated one by one after the prompt (decode)")
    rounds: int = Field(10, ge=3, description="measurements of each model; the median is reported")
    warmup: int = Field(2, ge=1, description="warm-up rounds, which are not measured")
