"""The data that plugins hand over and the jobs that methods are given.

Nothing here imports torch, so that a plugin module which only *declares* methods stays cheap to load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:  # the jobs carry these, but declaring a method must not import them
    from pathlib import Path

    import numpy as np

    from hgsp_core.artifacts import Calibration, Plan, Priors, Scores, Statistics
    from hgsp_core.layout import BlockLayout, Layout, SliceLayout

API = 1

#: kind -> the hook that provides it; the one list of kinds in the product.
HOOKS = {
    "architecture": "hgsp_architectures",
    "scorer": "hgsp_scorers",
    "prior": "hgsp_priors",
    "normalizer": "hgsp_normalizers",
    "allocator": "hgsp_allocators",
    "reconstructor": "hgsp_reconstructors",
    "recoverer": "hgsp_recoverers",
    "evaluator": "hgsp_evaluators",
    "exporter": "hgsp_exporters",
    "dataset": "hgsp_datasets",
}


class Params(BaseModel):
    """Base of a method's parameters: frozen, typed, and unknown keys are errors.

    Give every field a default, a range and a description with its unit; `hgsp plugins show` prints them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


@dataclass(frozen=True)
class Method:
    """A named method of one kind.

    `target` is `"module:Class"`. It is imported only when a recipe uses the method, so the class may import torch.
    The pipeline calls `Class(params)(job)`; which job and which result belongs to which kind stands in `hookspecs.py`.
    """

    name: str
    target: str
    params: type[Params] = Params
    summary: str = ""
    api: int = API


@dataclass(frozen=True)
class Slice:
    """One linear that an axis cuts: `module` relative to the layer, `dim` 0 = output rows (bias follows), 1 = input columns."""

    module: str
    dim: int


@dataclass(frozen=True)
class Axis:
    """One prunable dimension of a decoder layer, and the block (residual branch) that it lives in.

    units   config key that counts the units; rows per unit = weight.shape[dim] / config[units]
    scales  config keys that shrink in proportion (query heads with KV heads)
    block   module, relative to the layer, whose output is added to the residual stream
    fixed   modules that no unit owns and that leave only with the whole block (its norm, q/k norms)
    cache   linears whose outputs a decoder keeps for every past token; empty = the block does not mix tokens
    """

    name: str
    units: str
    block: str
    slices: tuple[Slice, ...]
    fixed: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    cache: tuple[str, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """A model family as data: where its parts are, and the axes along which its layers shrink."""

    model_type: str
    layers: str
    embed: str
    norm: str
    head: str
    axes: tuple[Axis, ...]
    summary: str = ""
    api: int = API

    @property
    def name(self) -> str:
        """Its key in the registry: the model_type."""
        return self.model_type


@dataclass(frozen=True)
class ScoreJob:
    """What a scorer sees: shapes and the statistics of its declared collectors; never a model."""

    layout: Layout
    statistics: Statistics
    seed: int


@dataclass(frozen=True)
class PriorJob:
    """What a prior sees; the same as a scorer, and it returns one number per layer and per block."""

    layout: Layout
    statistics: Statistics


@dataclass(frozen=True)
class NormalizeJob:
    """The scores as the stage before left them."""

    layout: Layout
    scores: Scores


#: windows that a judge needs in either half: a repair fits to all but one
LEAST_HALF = 2


@dataclass(frozen=True)
class AllocateJob:
    """Everything an allocation may depend on.

    priors    None where the allocator's `needs_priors` is False
    judge     None unless the allocator has a method `held_out(layout, samples)`, which says how many of the calibration
              windows are to judge: `judge(plan)` -> KL to the dense model on them, in nats a token;
              `judge.repaired(plan, half)` -> [windows], the same for each window of one half (0 or 1) of the others and
              the plan as the recipe's repair leaves it, fitted to the other half, at the cost of that repair
    progress  (done, total) may be called
    before    what the step before of `iterative_steps` left: what it removed has to go again. Its units have the least
              scores, so an allocator that goes by these need not look
    """

    layout: Layout
    scores: Scores
    priors: Priors | None
    judge: Any = None
    progress: Callable[[int, int], None] = field(default=lambda done, total: None)
    before: Plan | None = None


@dataclass(frozen=True)
class Moments:
    """Sums over tokens of a linear's input x [in] and of outputs y [out] that it should give; torch tensors, fp32.

    All a linear fit needs: the squared error of any W is tr(W G Wᵀ) − 2 tr(W Cᵀ) + power.

    tokens   how many
    total    Σ x [in]
    gram     G = Σ x xᵀ [in, in]
    cross    target -> C = Σ y xᵀ [out, in]
    power    target -> Σ |y|²
    """

    tokens: int
    total: Any
    gram: Any
    cross: Mapping[str, Any]
    power: Mapping[str, float]


@dataclass(frozen=True)
class BlockJob:
    """One block about to be cut, in a model of which everything before this block is already pruned and repaired.

    kept      units that the plan keeps
    columns   columns of the writer that stay, ascending: those of the kept units, or of their kept query heads
    writer    the linear that writes to the residual stream; its columns are the units
    weight    W [out, in] of the writer, as it was, fp32;  bias [out] or None where the model has no place for one
    fit       moments of the writer's input on the pruned model, over the calibration windows to fit on
    held_out  the same over windows that no fit may use
    """

    block: BlockLayout
    kept: tuple[int, ...]
    columns: Any
    writer: SliceLayout
    weight: Any
    bias: Any
    fit: Moments
    held_out: Moments


@dataclass(frozen=True)
class ReadJob:
    """What a block's readers (its linears that do not write to the stream), or the head, read after the cuts below.

    block          None: the head (asked last, where it is a tensor of its own)
    fit, held_out  moments of that input x with the one target "dense": what they read in the dense model

    The answer is a matrix M [in, in] that each of the readers absorbs, W ← W M, or None to leave them as they are. Only a
    reconstructor whose `reads` is true is asked, by its method `read`, before the same block's `BlockJob`.
    """

    block: BlockLayout | None
    fit: Moments
    held_out: Moments


@dataclass(frozen=True)
class Repair:
    """What a reconstructor decided for one block: which units stay (as many as planned), and the writer at its old size.

    Columns of units that go are ignored. `note`: what a user should know, or empty.
    """

    kept: tuple[int, ...]
    weight: Any
    bias: Any
    note: str = ""


@dataclass(frozen=True)
class RecoverJob:
    """A pruned checkpoint directory to train further, and where the trained one is to be written.

    calibration   the run's windows, or None where nothing that was measured needed data
    architecture  of the family that the checkpoint was pruned from: which linears its layers are made of
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


@dataclass(frozen=True)
class EvaluateJob:
    """A model to measure.

    model       the transformers model, or None where its weights are streamed (an evaluator that needs it says so)
    total_loss  (windows [n, seq_len] int64, batch_size, progress, context [n] or None) -> Σ -log p over the tokens of each
                window but its first `context` ones, which are only read (None: all but the first)
    progress    (done, total) may be called
    rows        of the embedding: a token whose id is not below this has none (None: not known)
    """

    model: Any
    tokenizer: Any
    total_loss: Callable[..., float]
    seed: int
    progress: Callable[[int, int], None] = field(default=lambda done, total: None)
    rows: int | None = None


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
    logits: Any
    resident: bool
    progress: Callable[[int, int], None] = field(default=lambda done, total: None)
    note: Callable[[str], None] = field(default=lambda text: None)
    report: Mapping[str, Any] = field(default_factory=dict)
    original: Path | None = None


@dataclass(frozen=True)
class DatasetJob:
    """Which text is wanted: `calibration` or `evaluation`.

    characters   no document is used beyond so many of them, so no more need be read; None = all are used
    """

    split: str
    characters: int | None = None
