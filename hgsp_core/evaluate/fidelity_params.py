"""Parameters of `fidelity`; apart, so that declaring the method imports no torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from hgsp_core.evaluate.harness_tasks import TaskParams
from hgsp_core.evaluate.texts import TextUse


class FidelityParams(TaskParams):
    datasets: tuple[TextUse, ...] = Field(
        (TextUse(use="wikitext2"),), description="names, local files, hub ids, or mappings {use, with, name}"
    )
    seq_len: int = Field(128, ge=2, description="tokens per window")
    max_windows: int = Field(64, ge=2, description="number of windows per text, from the first")
    prompts: int = Field(
        0, ge=0, description="greedy answers per text, to its first instructions or else windows; 0 = none"
    )
    batch_size: int = Field(8, ge=1, description="windows or requests per batch; affects cost, not the result")

    @model_validator(mode="after")
    def _something_to_measure(self) -> FidelityParams:
        if not self.tasks and self.include_path is not None:
            raise ValueError("include_path requires tasks")
        if not self.datasets and not self.tasks:
            raise ValueError("nothing to measure: give datasets or tasks")
        if not self.datasets and self.prompts:
            raise ValueError("prompts requires datasets")
        return self
