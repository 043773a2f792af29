"""lm-eval's own wrapper of transformers models, telling the run's monitor how far it is instead of drawing bars."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from lm_eval.models.huggingface import HFLM

from hgsp_core.data.run import require_rows
from hgsp_core.evaluate.contract import EvaluateJob


class ShownHFLM(HFLM):
    """HFLM of the job's model and tokenizer. The display differs: rows of the batches done, of all requests.

    Tokenizers without special tokens are taken, too: token 0 stands before a text that nothing precedes (`stand_in`), and no
    token ends a text. A token that the embedding has no row for is an error that names it.
    """

    def __init__(self, job: EvaluateJob, batch_size: int, softmax_dtype: str | None, evaluator: str):
        tokenizer = deepcopy(job.tokenizer)  # HFLM adds a padding token where there is none
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        self.stand_in = 0 if first is None else None
        self._rows, self._evaluator = job.rows, evaluator
        known = None not in (job.rows, tokenizer.pad_token_id, tokenizer.eos_token_id)
        if known and tokenizer.pad_token_id >= job.rows:
            tokenizer.pad_token = tokenizer.eos_token
        options = {"tokenizer": tokenizer, "batch_size": batch_size, "prefix_token_id": self.stand_in}
        options["softmax_dtype"] = softmax_dtype
        super().__init__(pretrained=job.loaded, backend="causal", **options)
        self._progress, self._done, self._total = job.progress, 0, 0

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        ids = super().tok_encode(string, *args, **kwargs)
        require_rows(np.asarray(ids), self._rows, self.tokenizer, self._evaluator)
        return ids

    def tok_batch_encode(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        ids, mask = super().tok_batch_encode(*args, **kwargs)
        # the padding token may have no row in the embedding; what is masked is not read
        ids = ids.masked_fill(mask == 0, 0)
        require_rows(ids.numpy(), self._rows, self.tokenizer, self._evaluator)
        return ids, mask

    def tok_decode(self, tokens: Any, *args: Any, **kwargs: Any) -> Any:
        return None if tokens is None else super().tok_decode(tokens, *args, **kwargs)

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        self._total += len(requests)
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        self._total += len(requests)
        return super().generate_until(requests, disable_tqdm=True)

    def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
        logits = super()._model_call(inps, *args, **kwargs)
        self._step(len(inps))
        return logits

    def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
        tokens = super()._model_generate(context, *args, **kwargs)
        self._step(len(context))
        return tokens

    def _step(self, rows: int) -> None:
        self._done += rows
        self._progress(min(self._done, self._total), self._total)
