"""Measurements of a model: what an evaluator is given and gives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from hgsp_core.evaluate.errors import EvaluationError
from hgsp_core.plugin.method import Implementation, P

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

#: metric -> number or {name: number}; one that ends in `_protocol` says how another was measured, one in
#: `_stderr` is its standard error. Tables leave out what is nested deeper
Metrics = Mapping[str, Any]


def _no_logits(windows: np.ndarray, batch_size: int) -> Iterator[Tensor]:
    raise TypeError("This job was made without logits.")


@dataclass(frozen=True)
class EvaluateJob:
    """A model to measure.

    model       the transformers model, or None where its weights are streamed (an evaluator that needs it says so)
    total_loss  (windows [n, seq_len] int64, batch_size, progress, context [n] or None) -> Σ -log p over the tokens of each
                window but its first `context` ones, which are only read (None: all but the first)
    progress    (done, total) may be called
    rows        of the embedding: a token whose id is not below this has none (None: not known)
    logits      (windows, batch_size) -> for each window of this process's share of them its logits [seq_len, vocabulary]
    once        (inputs, measure) -> measure(), of the original from the store if these inputs were measured before
    """

    model: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    total_loss: Callable[..., float]
    seed: int
    progress: Callable[[int, int], None] = field(default=lambda done, total: None)
    rows: int | None = None
    logits: Callable[[np.ndarray, int], Iterator[Tensor]] = field(default=_no_logits)
    once: Callable[[Mapping[str, Any], Callable[[], Metrics]], Metrics] = field(
        default=lambda inputs, measure: measure()
    )

    @property
    def loaded(self) -> PreTrainedModel:
        """The model, for evaluators with `whole_model`. Raises EvaluationError if its weights are streamed."""
        if self.model is None:
            raise EvaluationError.streamed()
        return self.model


class Evaluator(Implementation[P]):
    """A measurement of a model, made before and after the cut.

    whole_model   whether it reads `job.loaded`: where weights are streamed there is none, and the run says so before it cuts
    measures      what it gives, so that two of the same are refused; may be set when it is made
    """

    kind: ClassVar[str] = "evaluator"
    whole_model: bool = False
    measures: Sequence[str] = ()

    @abstractmethod
    def __call__(self, job: EvaluateJob) -> Metrics:
        """The metrics of one model."""

    def inputs(self) -> Mapping[str, Any] | None:
        """Everything but the model that the result depends on, as plain data: the original is then measured once for many runs.

        None: it is measured for each (timings).
        """
        return None

    def check_tokens(self, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
        """Refuse, with an HgspError, a text with tokens outside an embedding of `rows` rows; nothing by default."""
        return


class PairEvaluator(Evaluator[P]):
    """A measurement of both models together: other load on the machine affects both alike, or one is compared with the other.

    needs_dense   whether one model alone cannot be measured: without a dense model the evaluator is refused
    """

    needs_dense: bool = False

    @abstractmethod
    def compare(self, dense: EvaluateJob, pruned: EvaluateJob) -> tuple[Metrics, Metrics]:
        """The metrics of both models."""

    def apart(self, dense: Callable[[], EvaluateJob], pruned: Callable[[], EvaluateJob]) -> tuple[Metrics, Metrics]:
        """As `compare`, of models that do not fit in memory together: each call opens one, streamed while the other is there.

        By default one is measured after the other.
        """
        after = self(pruned())
        return self(dense()), after
