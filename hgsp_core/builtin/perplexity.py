"""Perplexity of a causal language model on a text.

Protocol: documents joined by a blank line, tokenised without special tokens, cut into windows of `seq_len` tokens without
overlap (the rest dropped); the first token of each window is not predicted; exp(total negative log likelihood / predicted
tokens). Likelihoods are of fp32 logits, and summed in fp64.
"""

from __future__ import annotations

import math

from pydantic import Field

from hgsp_core.data import open_dataset, read_text, windows
from hgsp_core.errors import DataError
from hgsp_core.types import DatasetJob, EvaluateJob, Params


class PerplexityParams(Params):
    datasets: tuple[str, ...] = Field(("wikitext2",), min_length=1, description="dataset names, local files or hub ids")
    seq_len: int = Field(128, ge=2, description="tokens per window")
    batch_size: int = Field(8, ge=1, description="windows at a time; changes cost, never the result")
    max_windows: int | None = Field(None, ge=1, description="only the first so many windows of each text; none = all")
    column: str | None = Field(None, description="column that holds the text, where it is not called 'text'")


class Perplexity:
    def __init__(self, params: PerplexityParams):
        self.params = params
        with_ = {"column": params.column} if params.column else {}
        self.datasets = {name: open_dataset(name, with_, "evaluate: perplexity: datasets") for name in params.datasets}

    def __call__(self, job: EvaluateJob) -> dict[str, dict[str, float]]:
        return {"perplexity": {name: self._of(name, job) for name in self.datasets}}

    def _of(self, name: str, job: EvaluateJob) -> float:
        p = self.params
        text = read_text(self.datasets[name](DatasetJob("evaluation")), None, name)
        cut = windows(text, job.tokenizer, p.seq_len)[: p.max_windows]
        if not len(cut):
            raise DataError.no_window(name, p.seq_len)
        total = job.total_loss(cut, p.batch_size, job.progress)
        mean = total / (len(cut) * (p.seq_len - 1))
        return math.exp(mean) if mean < 700 else math.inf
