"""The texts that evaluators measure on, and the windows cut from them.

Documents are joined by a blank line, tokenised without special tokens, and cut into windows of `seq_len` tokens that begin
`stride` tokens apart; the rest is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from hgsp_core.data.contract import Dataset
from hgsp_core.data.errors import DataError
from hgsp_core.data.run import CHARACTERS_PER_TOKEN, dataset_job, open_dataset, read_text, require_rows, windows
from hgsp_core.runtime.recipe import DatasetUse, data_params

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class TextUse(DatasetUse):
    """A text to measure on, under a name of its own."""

    name: str | None = Field(None, min_length=1, description="name in the report, if not the dataset's own")

    @property
    def label(self) -> str:
        return self.name or self.use


@dataclass(frozen=True)
class Text:
    """A text, and how it is cut. `max_windows`: so many from the first, None = all."""

    use: TextUse
    dataset: Dataset[Any]
    seq_len: int
    stride: int
    max_windows: int | None

    @property
    def label(self) -> str:
        return self.use.label

    def read(self) -> str:
        """Raises DataError where there is none."""
        return read_text(self.dataset, "evaluation", self._characters(), self.use.use)

    def windows(self, tokenizer: PreTrainedTokenizerBase, rows: int | None) -> np.ndarray:
        """[windows, seq_len]. Raises DataError where a token has no row in an embedding of `rows` rows."""
        cut = windows(self.read(), tokenizer, self.seq_len, self.stride)[: self.max_windows]
        require_rows(cut, rows, tokenizer, self.use.use)
        return cut

    def protocol(self, cut: np.ndarray) -> dict[str, Any]:
        """What was read, and the hash of the tokens."""
        with_ = data_params(self.use.use, self.use.with_)
        return {
            "dataset": self.use.use,
            "with": with_,
            "split": with_.get("evaluation_split", "evaluation"),
            "seq_len": self.seq_len,
            "windows": len(cut),
            "tokens_sha256": hashlib.sha256(np.ascontiguousarray(cut, dtype="<i8").tobytes()).hexdigest(),
        }

    def _characters(self) -> int | None:
        """Characters that the windows may need; None = all."""
        return self.max_windows and (self.max_windows * self.stride + self.seq_len) * CHARACTERS_PER_TOKEN

    def require(self) -> None:
        """Read as far as the first document. Raises DataError where there is none."""
        if not any(document.strip() for document in self.dataset(dataset_job("evaluation", self._characters()))):
            raise DataError.empty(self.use.use)


def open_texts(
    uses: Sequence[TextUse], seq_len: int, stride: int, max_windows: int | None, evaluator: str
) -> list[Text]:
    """The texts, each found and not empty. Raises DataError."""
    place = f"evaluate: {evaluator}: datasets"
    texts = [Text(use, open_dataset(use.use, use.with_, place), seq_len, stride, max_windows) for use in uses]
    for text in texts:
        text.require()
    return texts
