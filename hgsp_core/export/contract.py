"""Other forms of the finished checkpoint: what an exporter is given and gives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from hgsp_core.plugin.method import Implementation, P

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from hgsp_core.artifacts import Plan
    from hgsp_core.model.layout import Layout


@dataclass(frozen=True)
class ExportJob:
    """A finished pruned checkpoint (an HF directory) and the directory to export into.

    plan       of a checkpoint whose plan is not known: all that it has is kept
    layout     the pruned model's own
    tokens     [windows, seq_len] int64;  logits [windows, seq_len, vocabulary] of the checkpoint on them: what an export
               must reproduce
    resident   whether the whole model fits in memory; if not, an exporter must go through it layer by layer
    report     of the run, as in report.json: recipe, calibration, before, after, recovery; empty where no run is known
    original   directory of the model that was pruned, or None where it is not known
    progress   (done, total) may be called
    note       called with what the user should know of the result, one sentence each time
    """

    checkpoint: Path
    destination: Path
    plan: Plan
    layout: Layout
    tokens: np.ndarray
    logits: Tensor
    resident: bool
    progress: Callable[[int, int], None] = field(default=lambda done, total: None)
    note: Callable[[str], None] = field(default=lambda text: None)
    report: Mapping[str, Any] = field(default_factory=dict)
    original: Path | None = None


class Exporter(Implementation[P]):
    """Another form of the finished checkpoint."""

    kind: ClassVar[str] = "exporter"

    def check(self, directory: Path, layout: Layout) -> None:
        """Refuse, with an HgspError and before anything is cut, what cannot be held; nothing by default.

        Args:
            directory: of the model to be pruned, or of the checkpoint.
            layout: of the model as it is now, or as a plan would leave it.
        """
        return

    @abstractmethod
    def __call__(self, job: ExportJob) -> Path:
        """The path that was written below `job.destination`."""

    def publish(self, path: Path) -> str | None:
        """Send away what was written, once the run is in its place; returns where to, None = nowhere."""
        return None
