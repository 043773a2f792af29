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

from hgsp_core.data.contract import Dataset
from hgsp_core.data.errors import DataError
from hgsp_core.data.run import CHARACTERS_PER_TOKEN, dataset_job, open_dataset, read_text, require_rows, windows
from hgsp_core.evaluate.contract import EvaluateJob, Evaluator
from hgsp_core.plugin.method import Params
from hgsp_core.runtime.recipe import Use, data_params

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class TextUse(Use):
    """A dataset by name, with its parameters; a bare name stands for one without any."""

    name: str | None = Field(None, min_length=1, description="name in the report, if not the dataset's own")

    @property
    def label(self) -> str:
        return self.name or self.use


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

    @field_validator("datasets", mode="before")
    @classmethod
    def _names_stand_for_datasets(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        return [{"use": item} if isinstance(item, str) else item for item in value]

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
        self.datasets: list[tuple[TextUse, Dataset[Any]]] = []
        for use in params.datasets:
            dataset = open_dataset(use.use, use.with_, "evaluate: perplexity: datasets")
            job = dataset_job("evaluation", self._characters())
            if not any(document.strip() for document in dataset(job)):  # reads as far as the first text
                raise DataError.empty(use.use)
            self.datasets.append((use, dataset))
        self.measures = [f"perplexity, {use.label}" for use in params.datasets]

    def inputs(self) -> dict[str, Any]:
        """The settings and hashes of the texts, so that a changed file is measured again."""
        texts = {use.label: self._text(use, dataset) for use, dataset in self.datasets}
        hashes = {label: hashlib.sha256(text.encode()).hexdigest() for label, text in texts.items()}
        return {**self.params.model_dump(mode="json", exclude={"batch_size"}), "texts": hashes}

    def check_tokens(self, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
        """Raises DataError where a text has a token that an embedding of `rows` rows has no row for."""
        for use, dataset in self.datasets:
            self._windows(use, dataset, tokenizer, rows)

    def __call__(self, job: EvaluateJob) -> dict[str, dict[str, Any]]:
        numbers: dict[str, float] = {}
        protocols: dict[str, dict[str, Any]] = {}
        for use, dataset in self.datasets:
            numbers[use.label], protocols[use.label] = self._of(use, dataset, job)
        return {"perplexity": numbers, "perplexity_protocol": protocols}

    def _of(self, use: TextUse, dataset: Dataset[Any], job: EvaluateJob) -> tuple[float, dict[str, Any]]:
        p = self.params
        stride = p.stride or p.seq_len
        cut = self._windows(use, dataset, job.tokenizer, job.rows)
        if not len(cut):
            raise DataError.no_window(use.use, p.seq_len)
        context = np.full(len(cut), max(1, p.seq_len - stride))
        context[0] = 1
        total = job.total_loss(cut, p.batch_size, job.progress, context)
        predicted = int((p.seq_len - context).sum())
        with_ = data_params(use.use, use.with_)
        return perplexity(total / predicted), {
            "dataset": use.use,
            "with": with_,
            "split": with_.get("evaluation_split", "evaluation"),
            "seq_len": p.seq_len,
            "stride": p.stride,
            "windows": len(cut),
            "predicted_tokens": predicted,
            "tokens_sha256": hashlib.sha256(np.ascontiguousarray(cut, dtype="<i8").tobytes()).hexdigest(),
        }

    def _windows(
        self, use: TextUse, dataset: Dataset[Any], tokenizer: PreTrainedTokenizerBase, rows: int | None
    ) -> np.ndarray:
        p = self.params
        cut = windows(self._text(use, dataset), tokenizer, p.seq_len, p.stride or p.seq_len)[: p.max_windows]
        require_rows(cut, rows, tokenizer, use.use)
        return cut

    def _text(self, use: TextUse, dataset: Dataset[Any]) -> str:
        return read_text(dataset, "evaluation", self._characters(), use.use)

    def _characters(self) -> int | None:
        """Characters that the windows may need; None = all."""
        p = self.params
        return p.max_windows and (p.max_windows * (p.stride or p.seq_len) + p.seq_len) * CHARACTERS_PER_TOKEN


def perplexity(mean_loss: float) -> float:
    """exp of it, or infinity where that overflows."""
    return math.exp(mean_loss) if mean_loss < 700 else math.inf
