"""lm-eval's own wrapper of transformers models, telling the run's monitor how far it is instead of drawing bars."""

from __future__ import annotations

from typing import Any

from lm_eval.models.huggingface import HFLM

from hgsp_core.types import EvaluateJob


class ShownHFLM(HFLM):
    """HFLM of the job's model and tokenizer. Only the display differs: rows of the batches done, of all requests."""

    def __init__(self, job: EvaluateJob, batch_size: int):
        super().__init__(pretrained=job.model, backend="causal", tokenizer=job.tokenizer, batch_size=batch_size)
        self._progress, self._done, self._total = job.progress, 0, 0

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
