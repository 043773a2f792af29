"""The kept weights refitted: what a reconstructor is given and gives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hgsp_core.plugin.method import Implementation, P

if TYPE_CHECKING:
    from torch import Tensor

    from hgsp_core.model.layout import BlockLayout, SliceLayout
    from hgsp_core.repair.held_out import HeldOut


@dataclass(frozen=True)
class Moments:
    """Sums over tokens of a linear's input x [in] and of outputs y [out] that it should give; torch tensors, fp32.

    tokens   how many
    total    Σ x [in]
    gram     G = Σ x xᵀ [in, in]
    cross    target -> C = Σ y xᵀ [out, in]
    """

    tokens: int
    total: Tensor
    gram: Tensor
    cross: Mapping[str, Tensor]


@dataclass(frozen=True)
class BlockJob:
    """One block about to be cut, in a model of which everything before this block is already pruned and repaired.

    kept      units that the plan keeps
    columns   columns of the writer that stay, ascending: those of the kept units, or of their kept query heads
    writer    the linear that writes to the residual stream; its columns are the units
    weight    W [out, in] of the writer, as it was, fp32;  bias [out] or None where the model has no place for one
    fit       moments of the writer's input on the pruned model, over the calibration windows to fit on
    held_out  windows that no fit may use, with the last of the targets: they tell how good a fit is
    """

    block: BlockLayout
    kept: tuple[int, ...]
    columns: Tensor
    writer: SliceLayout
    weight: Tensor
    bias: Tensor | None
    fit: Moments
    held_out: HeldOut


@dataclass(frozen=True)
class ReadJob:
    """What a block's readers (its linears that do not write to the stream), or the head, read after the cuts below.

    block          None: the head (asked last, where it is a tensor of its own)
    fit, held_out  of that input x with the one target "dense": what they read in the dense model

    The answer is a matrix M [in, in] that each of the readers absorbs, W ← W M, or None to change nothing. Only a
    reconstructor whose `reads` is true is asked, by its method `read`, before the same block's `BlockJob`.
    """

    block: BlockLayout | None
    fit: Moments
    held_out: HeldOut


@dataclass(frozen=True)
class Repair:
    """What a reconstructor decided for one block: which units stay (as many as planned), and the writer at its old size.

    Columns of units that go are ignored. `note`: what a user should know, or empty.
    """

    kept: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None
    note: str = ""


class Reconstructor(Implementation[P]):
    """Repair of the kept weights, block by block, each block seeing the pruned and repaired model before it.

    targets  the outputs that moments are measured against: "own", "dense", "residual" (see `sequential.py`); empty =
             nothing is measured and the class is not called
    reads    whether `read` is asked, too
    damps    whether the output of each block, also of those that lose nothing, is scaled in the checkpoint by its standard
             deviation on held-out windows relative to the dense model's, if smaller; blocks are repaired as if it were not
    """

    kind: ClassVar[str] = "reconstructor"
    targets: Sequence[str] = ()
    reads: bool = False
    damps: bool = False

    @abstractmethod
    def __call__(self, job: BlockJob) -> Repair:
        """The units that stay, as many as planned, and the writer at its old size."""

    def read(self, job: ReadJob) -> Tensor | None:
        """What a block's readers, or the head (`job.block` is None), absorb; None changes nothing."""
        return None
