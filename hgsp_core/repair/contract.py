"""Repair of the kept weights: jobs, result and contract of reconstructors."""

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
    """Sums over tokens of a linear's input x [in] and of target outputs y [out]; torch tensors, fp32.

    tokens   number of tokens
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
    """One block before its cut; everything before this block is already pruned and repaired.

    kept      units that the plan keeps
    columns   kept columns of the writer, ascending: those of the kept units, or of their kept query heads
    writer    the linear that writes to the residual stream; its columns are the units
    weight    original W [out, in] of the writer, fp32;  bias [out], or None if the model has no place for one
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
    """The input of a block's readers (its linears that do not write to the stream), or of the head, after all earlier cuts.

    block          None: the head, which comes last, and only if it is a tensor of its own
    fit, held_out  of this input x, with one target "dense": the input in the dense model

    The result is a matrix M [in, in] that is multiplied into each reader, W ← W M, or None to change nothing. `read` is
    called only if `reads` is true, before the `BlockJob` of the same block.
    """

    block: BlockLayout | None
    fit: Moments
    held_out: HeldOut


@dataclass(frozen=True)
class Repair:
    """The repair of one block: the kept units, in the planned number, and the writer at its old size.

    Columns of removed units are ignored. `note`: for the user, or empty.
    """

    kept: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None
    note: str = ""


class Reconstructor(Implementation[P]):
    """Repair of the kept weights, block by block, each block seeing the pruned and repaired model before it.

    targets  the outputs that moments are measured against: "own", "dense", "residual" (see `sequential.py`); empty =
             nothing is measured and the class is not called
    reads    whether `read` is called too
    damps    whether the output of each block, also of those that lose nothing, is scaled in the checkpoint by its standard
             deviation on held-out windows relative to the dense model's, if smaller; blocks are repaired as if it were not
    """

    kind: ClassVar[str] = "reconstructor"
    targets: Sequence[str] = ()
    reads: bool = False
    damps: bool = False

    @abstractmethod
    def __call__(self, job: BlockJob) -> Repair:
        """The kept units, in the planned number, and the writer at its old size."""

    def read(self, job: ReadJob) -> Tensor | None:
        """The matrix to multiply into a block's readers, or into the head (`job.block` is None); None changes nothing."""
        return None
