"""What is measured on: one token set, and the statistics of one pass over it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np


class _Windows(TypedDict, total=False):
    """Text -> number of its windows, where there are several texts."""

    windows: dict[str, int]


class Calibrated(_Windows):
    """What the report says of a calibration."""

    dataset: str
    samples: int
    seq_len: int
    seed: int
    tokens_sha256: str


@dataclass(frozen=True)
class Calibration:
    """The one token set that every method of a run sees.

    texts   names of the texts that it was drawn from;  source  index of its text, for each window [samples] int64
    tokens  [samples, seq_len] int64; any run of windows has every text at about its share
    """

    texts: tuple[str, ...]
    seed: int
    tokens: np.ndarray
    source: np.ndarray

    @property
    def sha256(self) -> str:
        """Hash of the token ids, whatever the platform."""
        return hashlib.sha256(np.ascontiguousarray(self.tokens, dtype="<i8").tobytes()).hexdigest()

    def describe(self) -> Calibrated:
        """What the report says of it."""
        samples, seq_len = self.tokens.shape
        told: Calibrated = {
            "dataset": ", ".join(self.texts),
            "samples": samples,
            "seq_len": seq_len,
            "seed": self.seed,
            "tokens_sha256": self.sha256,
        }
        if len(self.texts) > 1:
            windows = np.bincount(self.source, minlength=len(self.texts)).tolist()
            told["windows"] = dict(zip(self.texts, windows, strict=True))
        return told


#: what one collector measured in one layer: a name (an axis, or "layer") -> array
LayerStatistics = Mapping[str, np.ndarray]


class Keyed(Protocol):
    """A collector; only its key matters here."""

    @property
    def key(self) -> str:
        """What its measurements are kept under."""


@dataclass(frozen=True)
class Statistics:
    """Measurements of the sweep: collector key -> one mapping per layer."""

    values: Mapping[str, Sequence[LayerStatistics]]

    def __getitem__(self, collector: Keyed | str) -> Sequence[LayerStatistics]:
        """The layers' measurements of a collector (or of its key)."""
        return self.values[collector if isinstance(collector, str) else collector.key]
