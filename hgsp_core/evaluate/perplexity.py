"""Perplexity of a causal language model on a text.

Protocol: documents joined by a blank line, tokenised without special tokens, cut into windows of `seq_len` tokens that begin
`stride` tokens apart (the rest dropped); exp(total negative log likelihood / predicted tokens). Without a stride the windows
do not overlap, and the first token of each is not predicted. With one, a window predicts only the tokens that the one
before it did not have: the sliding window of transformers' guide "Perplexity of fixed-length models", with every
predicted token counted once. Likelihoods are of fp32 logits, and summed in fp64.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from hgsp_core.data.errors import DataError
from hgsp_core.evaluate.contract import EvaluateJob, Evaluator
from hgsp_core.evaluate.texts import Text, TextUse, open_texts
from hgsp_core.plugin.method import Params

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class PerplexityParams(Params):
    datasets: tuple[TextUse, ...] = Field(
        (TextUse(use="wikitext2"),),
        min_length=1,
        description="names, local files, hub ids, or mappings {use, with, name}",
    )
    seq_len: int = Field(128, ge=2, description="tokens per window")
    stride: int = Field(
        0,
        ge=0,
        description="tokens between window starts; every token is predicted once, with the preceding tokens as context; 0 = no overlap",
    )
    batch_size: int = Field(8, ge=1, description="windows per batch; affects cost, never the result")
    max_windows: int | None = Field(None, ge=1, description="number of windows per text, from the first; null = all")

    @field_validator("stride")
    @classmethod
    def _windows_leave_no_gap(cls, stride: int, others: ValidationInfo) -> int:
        if stride > others.data.get("seq_len", stride):
            raise ValueError(f"more than seq_len {others.data['seq_len']}, so tokens between windows would be left out")
        return stride


class Perplexity(Evaluator[PerplexityParams]):
    """Measures the perplexity of texts, with or without overlapping windows.

    Formula: exp of the mean loss of the predicted tokens.
    Cost: one forward over the texts.
    When: always: it also works with streamed weights.
    """

    def __init__(self, params: PerplexityParams):
        super().__init__(params)
        stride = params.stride or params.seq_len
        self.texts = open_texts(params.datasets, params.seq_len, stride, params.max_windows, "perplexity")
        self.measures = [f"perplexity, {text.label}" for text in self.texts]

    def inputs(self) -> dict[str, Any]:
        """The settings and hashes of the texts, so that a changed file is measured again."""
        hashes = {text.label: hashlib.sha256(text.read().encode()).hexdigest() for text in self.texts}
        return {**self.params.model_dump(mode="json", exclude={"batch_size"}), "texts": hashes}

    def check_tokens(self, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
        """Raises DataError where a text has a token that an embedding of `rows` rows has no row for."""
        for text in self.texts:
            text.windows(tokenizer, rows)

    def __call__(self, job: EvaluateJob) -> dict[str, dict[str, Any]]:
        numbers: dict[str, float] = {}
        protocols: dict[str, dict[str, Any]] = {}
        for text in self.texts:
            numbers[text.label], protocols[text.label] = self._of(text, job)
        return {"perplexity": numbers, "perplexity_protocol": protocols}

    def _of(self, text: Text, job: EvaluateJob) -> tuple[float, dict[str, Any]]:
        p = self.params
        cut = text.windows(job.tokenizer, job.rows)
        if not len(cut):
            raise DataError.no_window(text.use.use, p.seq_len)
        context = np.full(len(cut), max(1, p.seq_len - text.stride))
        context[0] = 1
        total = job.total_loss(cut, p.batch_size, job.progress, context)
        predicted = int((p.seq_len - context).sum())
        measured = {"stride": p.stride, "predicted_tokens": predicted}
        return perplexity(total / predicted), text.protocol(cut) | measured


def perplexity(mean_loss: float) -> float:
    """exp of it, or infinity where that overflows."""
    return math.exp(mean_loss) if mean_loss < 700 else math.inf
