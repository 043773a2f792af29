"""Text by name: what a dataset is given and gives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hgsp_core.plugin.method import Implementation, P


@dataclass(frozen=True)
class DatasetJob:
    """Which text is wanted: `calibration` or `evaluation`.

    characters   the most characters used of a document, so no more need be read; None = all
    """

    split: str
    characters: int | None = None


class Dataset(Implementation[P]):
    """Text, and optionally rows to train on. Local files and hub ids need no plugin."""

    kind: ClassVar[str] = "dataset"

    @abstractmethod
    def __call__(self, job: DatasetJob) -> Iterable[str]:
        """The documents of a split."""

    def rows(self, job: DatasetJob) -> Iterable[Mapping[str, Any]] | None:
        """Rows to train on (instruction/input/output or messages); None where there are only documents."""
        return None
