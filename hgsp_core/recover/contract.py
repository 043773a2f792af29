"""Training after the cut: what a recoverer is given and gives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from hgsp_core.plugin.method import Implementation, P

if TYPE_CHECKING:
    from pathlib import Path

    from hgsp_core.artifacts import Calibration
    from hgsp_core.model.architecture import Architecture


@dataclass(frozen=True)
class RecoverJob:
    """A pruned checkpoint directory to train further, and where the trained one is to be written.

    calibration   the run's windows, or None where nothing that was measured needed data
    architecture  of the family that the checkpoint was pruned from: which linears its layers are made of; None: as it says itself
    dense         directory of the model before the cut, or None where it is not known
    device        "cpu", "cuda" or "cuda:N"
    work          directory for checkpoints of the training, there again for the same training after a kill; None: nothing is kept
    progress      (done, total) may be called

    Of several processes only the first calls a recoverer, unless its class says `parallel = True`: then all of them do, in
    one torch.distributed group, and only the first may write to `destination`.
    """

    checkpoint: Path
    destination: Path
    calibration: Calibration | None
    seed: int
    architecture: Architecture | None = None
    dense: Path | None = None
    device: str = "cpu"
    work: Path | None = None
    progress: Callable[[int, int], None] = field(default=lambda done, total: None)


class Recoverer(Implementation[P]):
    """Training after the cut. It is made before any work starts: data that cannot be used should be found there.

    parallel           whether all processes of a run call it, in one torch.distributed group, or the first only
    needs_calibration  whether it trains on the run's calibration set (`job.calibration`)
    """

    kind: ClassVar[str] = "recoverer"
    parallel: bool = False
    needs_calibration: bool = False

    def check(self, directory: Path) -> None:
        """Refuse, with an HgspError, what cannot be used with the model in that directory; nothing by default."""
        return

    @abstractmethod
    def __call__(self, job: RecoverJob) -> Mapping[str, Any]:
        """Write a new checkpoint to `job.destination`; returns what happened, as plain data for the report."""
