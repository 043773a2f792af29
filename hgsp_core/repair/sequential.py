"""The sequential sweep: blocks are cut and repaired one after another, each seeing the pruned model before it.

Two streams go through the layers: the dense model's, and that of the model as pruned and repaired so far. For each block the
moments of its writer's input x (o_proj, down_proj) on the pruned stream are measured against targets y:

    own       what the block's own old weights make of its input: W x + b
    dense     what the writer gives in the dense model
    residual  the dense stream after the block minus the pruned stream before it: repairs what was lost below, too

Before that, and also in a block that loses nothing, those of its readers' input against what they read in the dense model,
if the reconstructor asks for it; last of all those of the head's, where it is not the embedding as well. The masked model
stands for the pruned one, which it equals: weights keep their size, units that go are zero. A layer is run only as far as to
the input that is looked at, and what its finished blocks give is kept: attention does not run again for the MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from hgsp_core.artifacts import BlockPlan, Plan
from hgsp_core.artifacts.surgery import lines, mask_tensors
from hgsp_core.engine.batches import Batch, embed
from hgsp_core.engine.calls import Output, forwards_replaced
from hgsp_core.engine.errors import EngineError
from hgsp_core.engine.findings import is_finite
from hgsp_core.engine.forward import Run, watched, watched_until
from hgsp_core.engine.layer import Beginning, Passage
from hgsp_core.engine.replaced import own_weights, run_layer
from hgsp_core.engine.sums import Sums
from hgsp_core.engine.weights import Weights
from hgsp_core.errors import NumericError
from hgsp_core.model.layout import BlockLayout, LayerLayout, SliceLayout
from hgsp_core.repair.contract import BlockJob, Moments, ReadJob, Reconstructor
from hgsp_core.repair.held_out import HeldOut

OWN, DENSE, RESIDUAL = "own", "dense", "residual"
#: of the samples, the part that no fit sees (at least one)
HELD_OUT = 1 / 8
#: rows of the head that are in memory as fp32 at a time
ROWS = 4096

#: full name -> tensor
Tensors = Mapping[str, Tensor]


def repair_blocks(
    source: Weights,
    plan: Plan,
    reconstructor: Reconstructor[Any],
    tokens: np.ndarray,
    batch_size: int,
    keep: Callable[[Tensors], None],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Let the reconstructor decide every block that loses units, first to last. Returns the final plan, with its notes.

    Args:
        source: of the dense model.
        reconstructor: its `targets` say what is measured, `reads` whether `read` is asked, too.
        tokens: [samples, seq_len] int64; the last eighth is held out.
        keep: called with the tensors that changed, by full name, at their old size, on the host: once a layer, and for the head.
    """
    if len(tokens) < 2:
        raise EngineError.nothing_to_hold_out(len(tokens))
    held_out = max(1, round(len(tokens) * HELD_OUT))
    batches: list[Batch] = []
    dense: list[Tensor] = []
    split: list[int] = []
    for part in (tokens[:-held_out], tokens[-held_out:]):
        cut, streams = embed(source, part, batch_size)
        batches += list(cut)
        dense += streams
        split.append(len(batches))
    pruned = list(dense)
    reads, damps = reconstructor.reads, reconstructor.damps
    needs_dense = reads or damps or not {DENSE, RESIDUAL}.isdisjoint(reconstructor.targets)
    as_dense = True  # whether the two streams are still the same
    notes: list[str] = []
    layers = source.layout.layers
    with torch.no_grad():
        for index, module in source.layers(range(len(layers))):
            layer = layers[index]
            own = own_weights(layer, module)
            lower = _Layer(layer, module, batches, split, index)
            passages = [lower.dense(own, b, x) for b, x in enumerate(dense)] if needs_dense else []
            weights: dict[str, Tensor] = dict(own)
            changed: dict[str, Tensor] = {}
            for axis, block in layer.blocks.items():
                planned = plan.block(block)
                repairable = planned.kept and not block.routed  # experts have no writer
                if repairable and reads and not as_dense:
                    changed |= lower.read(block, reconstructor, weights | changed, pruned, passages)
                if repairable and planned.loses:
                    here = weights | changed
                    without: Tensors = {}
                    if any(s.is_norm for s in block.slices):
                        without = dict(mask_tensors([(n, here[n]) for n in block.tensors()], source.layout, plan))
                    job = lower.job(block, planned, here, without, pruned, passages, reconstructor.targets)
                    result = reconstructor(job)
                    plan = plan.with_kept(index, axis, result.kept)
                    changed[block.writer.weight] = result.weight.to(own[block.writer.weight].dtype)
                    if block.writer.has_bias:
                        assert result.bias is not None  # the job had one
                        changed[block.writer.bias] = result.bias.to(own[block.writer.bias].dtype)
                    notes += [f"layer {index}, {axis}: {result.note}"] if result.note else []
                weights |= changed
                mine = [(name, weights[name]) for name in block.tensors()]
                weights |= dict(mask_tensors(mine, source.layout, plan))
                lower.finished(block, plan.block(block), weights)
                as_dense = as_dense and not planned.loses
            spreads = _Spreads()
            for b, x in enumerate(pruned):
                passage = passages[b] if as_dense and passages else lower.run(weights, b, x)
                pruned[b] = passage.after
                if damps and not as_dense and b >= split[0]:
                    spreads.add(passages[b], passage)
            for axis, gain in spreads.gains().items():
                if layer.blocks[axis].axis.after or layer.blocks[axis].routed:
                    continue  # the norm would take it back; experts have no writer
                writer = layer.blocks[axis].writer
                names = (writer.weight, writer.bias) if writer.has_bias else (writer.weight,)
                changed |= {name: weights[name] * gain for name in names}
            dense = [passage.after for passage in passages]
            if changed:
                keep({name: tensor.to("cpu", copy=True) for name, tensor in changed.items()})
            progress(index + 1, len(layers))
        if reads and not as_dense and source.layout.head:
            if head := _read_head(source, reconstructor, pruned, dense, split):
                keep(head)
    return replace(plan, notes=(*plan.notes, *notes))


class _Spreads:
    """Standard deviations over held-out tokens of what blocks add to the two streams, of all features together."""

    def __init__(self) -> None:
        self._sums = Sums()

    def add(self, dense: Passage, pruned: Passage) -> None:
        for axis, added in pruned.added.items():
            for name, y in ((f"{axis} dense", dense.added[axis]), (f"{axis} pruned", added)):
                y = y.flatten(0, -2).double()
                self._sums.add(f"{name} total", y.sum(0))
                self._sums.add(f"{name} power", y.square().sum())
                self._sums.add(f"{name} tokens", y.new_full((), len(y)))

    def gains(self) -> dict[str, float]:
        """Axis -> pruned / dense, of blocks of which less than the dense model's is left."""
        self._sums.add_up()

        def variance(name: str) -> Tensor:
            total, power, tokens = (self._sums[f"{name} {part}"] for part in ("total", "power", "tokens"))
            return power - total.square().sum() / tokens

        axes = [name.removesuffix(" dense power") for name in self._sums if name.endswith(" dense power")]
        found = {axis: float((variance(f"{axis} pruned") / variance(f"{axis} dense")).sqrt()) for axis in axes}
        return {axis: gain for axis, gain in found.items() if 0 < gain < 1}


def _read_head(
    source: Weights,
    reconstructor: Reconstructor[Any],
    pruned: Sequence[Tensor],
    dense: Sequence[Tensor],
    split: Sequence[int],
) -> Tensors:
    """Full name -> the head's weight, if it changes: it reads what leaves the final norm.

    Raises:
        NumericError: the final norm is not finite.
    """
    architecture = source.layout.architecture
    with source.outside(architecture.norm, architecture.head) as (norm, head):
        if not is_finite(norm.get_parameter("weight")):
            raise NumericError.weight(f"{architecture.norm}.weight")
        weight = head.get_parameter("weight")
        back = reconstructor.read(_read_job(None, split, lambda b: (_flat(norm(pruned[b])), _flat(norm(dense[b])))))
        if back is None:
            return {}
        changed = torch.empty_like(weight, device="cpu")
        for there, rows in zip(changed.split(ROWS), weight.split(ROWS), strict=True):
            there.copy_(rows.float() @ back.float())
        return {f"{architecture.head}.weight": changed}


class _Layer:
    """One decoder layer that can be run with other weights than its own.

    split: index of the micro-batch after the last one to fit on, and of that after the last one held out.
    """

    def __init__(
        self, layout: LayerLayout, module: nn.Module, batches: Sequence[Batch], split: Sequence[int], index: int
    ):
        self.layout, self.module, self.batches, self.split, self.index = layout, module, batches, split, index
        self._given: dict[nn.Module, _Given] = {}  # of finished blocks
        self._read: dict[int, Tensor] = {}  # micro-batch -> what the writer of the block at hand reads

    def finished(self, block: BlockLayout, plan: BlockPlan, weights: Tensors) -> None:
        """From now on neither the block's weights nor what it reads change: it runs once more, if at all."""
        module, outputs = self.module.get_submodule(block.axis.block), dict[int, Tensor]()
        if self._read:  # the block was repaired, so it has a writer
            writer = block.writer
            weight, bias = weights[writer.weight], weights[writer.bias] if writer.has_bias else None
            columns = lines(plan, writer).to(weight.device)
            outputs = {b: linear(x[..., columns], weight[:, columns], bias) for b, x in self._read.items()}
        self._given[module] = _Given(module.forward, outputs)
        self._read = {}

    def run(self, weights: Tensors, batch: int, x: Tensor) -> Passage:
        """Micro-batch x [batch, seq_len, hidden] through the layer with `weights` (by full name) in place of its own."""
        with watched(self.layout, self.module) as run, self._finished_known(batch):
            return run(self._call(weights, batch), x)

    def run_until(self, end: SliceLayout, weights: Tensors, batch: int, x: Tensor) -> Beginning:
        """The same, only as far as to the input of a linear."""
        with watched_until(self.layout, self.module, end.local) as run, self._finished_known(batch):
            return run(self._call(weights, batch), x)

    def _call(self, weights: Tensors, batch: int) -> Run:
        call = self.batches[batch].calls[self.index]
        return lambda module, x: run_layer(self.layout, module, call, weights, x)

    @contextmanager
    def _finished_known(self, batch: int) -> Iterator[None]:
        with ExitStack() as stack:
            for block, given in self._given.items():
                stack.enter_context(forwards_replaced([block], partial(given, batch)))
            yield

    def dense(self, own: Tensors, batch: int, x: Tensor) -> Passage:
        """The dense model's passage, of its inputs only those of readers: a writer's are wide."""
        passage = self.run(own, batch, x)
        readers = {s.local for block in self.layout.blocks.values() for s in block.linears if s.dim == 0}
        return replace(passage, inputs={name: x for name, x in passage.inputs.items() if name in readers})

    def read(
        self,
        block: BlockLayout,
        reconstructor: Reconstructor[Any],
        weights: Tensors,
        pruned: Sequence[Tensor],
        dense: Sequence[Passage],
    ) -> Tensors:
        """Full name -> the readers' weights that change."""
        readers = [s for s in block.linears if s.dim == 0]
        first = readers[0]
        inputs = dense[0].inputs
        readers = [s for s in readers if inputs[s.local].data_ptr() == inputs[first.local].data_ptr()]  # read the same

        def observe(b: int) -> tuple[Tensor, Tensor]:
            x = self.run_until(first, weights, b, pruned[b]).inputs[first.local]
            return _flat(x), _flat(dense[b].inputs[first.local])

        back = reconstructor.read(_read_job(block, self.split, observe))
        if back is None:
            return {}
        own = {s.weight: weights[s.weight] for s in readers}
        return {name: (weight.float() @ back.float()).to(weight.dtype) for name, weight in own.items()}

    def job(
        self,
        block: BlockLayout,
        plan: BlockPlan,
        weights: Tensors,
        without: Tensors,
        pruned: Sequence[Tensor],
        dense: Sequence[Passage],
        targets: Sequence[str],
    ) -> BlockJob:
        """What the reconstructor is handed.

        without: the block's tensors, masked, where a norm over all units makes kept ones depend on removed ones; else empty.
        """
        writer = block.writer
        weight = weights[writer.weight].float()
        bias = weights[writer.bias].float() if writer.has_bias else None
        columns = lines(plan, writer)

        def observe(b: int) -> tuple[Tensor, Tensors]:
            passage = self.run_until(writer, weights, b, pruned[b])
            x = _flat(passage.inputs[writer.local])
            ys = {t: _target(t, block, passage, dense[b]) for t in targets if t != OWN}
            if not without:
                self._read[b] = passage.inputs[writer.local]
                return x, ys
            if OWN in targets:
                ys[OWN] = linear(x, weight, bias)
            kept = columns.to(x.device)
            there = _flat(self.run_until(writer, {**weights, **without}, b, pruned[b]).inputs[writer.local])
            return x.index_copy(1, kept, there[:, kept]), ys

        def judged(b: int) -> tuple[Tensor, Tensor]:
            x, ys = observe(b)
            return x, ys[targets[-1]] if targets[-1] in ys else linear(x, weight, bias)

        fit, held_out = _moments(self.split, observe), _held_out(self.split, judged)
        if OWN in targets and not without:
            fit = _with_own(fit, weight, bias)
        return BlockJob(block, plan.kept, columns, writer, weight, bias, fit, held_out)


class _Given:
    """What a finished block gives on each micro-batch. It runs where that is not known, and once to see in which form it gives it.

    Of a tuple the first is kept, the output: attention's weights, where it gives any, are large and nobody reads them.
    """

    def __init__(self, forward: Callable[..., Output], outputs: dict[int, Tensor]):
        self._forward, self._outputs = forward, outputs
        self._in_form: Callable[[Tensor], Output] | None = None

    def __call__(self, batch: int, *arguments: Any, **keywords: Any) -> Output:
        if self._in_form is None or batch not in self._outputs:
            output = self._forward(*arguments, **keywords)
            if isinstance(output, tuple):
                rest = [None] * (len(output) - 1)
                self._in_form = lambda y: (y, *rest)
                self._outputs[batch] = output[0]
            else:
                self._in_form = lambda y: y
                self._outputs[batch] = output
        return self._in_form(self._outputs[batch])


def _target(target: str, block: BlockLayout, passage: Beginning, dense: Passage) -> Tensor:
    """y [tokens, hidden] of a dense or residual target; `passage` ends inside the block.

    What a norm is to give says too little of what it is to be given: before one, the residual target is the dense one.
    """
    axis = block.axis.name
    if target == DENSE or block.axis.after:
        return _flat(dense.written[axis])
    before = passage.before
    for added in passage.added.values():
        before = before + added
    after = next(after for name, _, after in dense.residuals() if name == axis)
    return (_flat(after) - _flat(before)) / block.gain


def _flat(x: Tensor) -> Tensor:
    """[tokens, features] fp32 of [batch, seq_len, features]."""
    return x.flatten(0, -2).float()


def _moments(split: Sequence[int], observe: Callable[[int], tuple[Tensor, Tensors]]) -> Moments:
    """Over the micro-batches to fit on, in all processes.

    observe: number of a micro-batch -> its x [tokens, in], and target -> y [tokens, out]; all in fp32.
    """
    sums, cross = Sums(), Sums()
    for b in range(split[0]):
        x, targets = observe(b)
        sums.add("tokens", x.new_full((), len(x)))
        sums.add("total", x.sum(0, keepdim=True))  # a matrix: in fp32
        sums.add_gram("gram", x)
        for name, y in targets.items():
            cross.add_cross(name, y, x)
    for each in (sums, cross):
        each.add_up()
    return Moments(int(sums["tokens"]), sums["total"][0], sums["gram"], cross)


def _held_out(split: Sequence[int], observe: Callable[[int], tuple[Tensor, Tensor]]) -> HeldOut:
    """Of the micro-batches held out. observe: number of a micro-batch -> its x [tokens, in] and y [tokens, out]."""
    seen = [observe(b) for b in range(*split)]
    return HeldOut([x for x, _ in seen], [y for _, y in seen])


def _read_job(
    block: BlockLayout | None, split: Sequence[int], observe: Callable[[int], tuple[Tensor, Tensor]]
) -> ReadJob:
    """observe: number of a micro-batch -> what is read, and was in the dense model [tokens, hidden]."""

    def moments_of(b: int) -> tuple[Tensor, Tensors]:
        x, dense = observe(b)
        return x, {DENSE: dense}

    return ReadJob(block, _moments(split, moments_of), _held_out(split, observe))


def _with_own(moments: Moments, weight: Tensor, bias: Tensor | None) -> Moments:
    """Σ (W x + b) xᵀ follows from the Gram matrix."""
    cross = weight @ moments.gram
    if bias is not None:
        cross = cross + torch.outer(bias, moments.total)
    return replace(moments, cross={**moments.cross, OWN: cross})
