"""The sequential sweep: blocks are cut and repaired one after another, each seeing the pruned model before it.

Two streams go through the layers: the dense model's, and that of the model as pruned and repaired so far. For each block the
moments of its writer's input x (o_proj, down_proj) on the pruned stream are measured against targets y:

    own       what the block's own old weights make of x: W x + b
    dense     what the block adds to the stream in the dense model
    residual  the dense stream after the block minus the pruned stream before it: repairs what was lost below, too

The masked model stands for the pruned one, which it equals: weights keep their size, units that go are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hgsp_core.artifacts import Plan
from hgsp_core.errors import SweepError
from hgsp_core.layout import LayerLayout
from hgsp_core.surgery import lines, mask_tensors
from hgsp_core.sweep.batches import Batch, embed
from hgsp_core.sweep.forward import watched
from hgsp_core.sweep.layer import Passage
from hgsp_core.sweep.parallel import add_up
from hgsp_core.sweep.replaced import run_layer
from hgsp_core.types import BlockJob, Moments, Repair

OWN, DENSE, RESIDUAL = "own", "dense", "residual"
#: of the samples, the part that no fit sees (at least one)
HELD_OUT = 1 / 8


@dataclass(frozen=True)
class Outcome:
    """The final plan, the writers that changed (full tensor name -> tensor at its old size), and what there is to say."""

    plan: Plan
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...]


def repair(
    source,
    plan: Plan,
    reconstructor: Callable[[BlockJob], Repair],
    tokens: np.ndarray,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Let the reconstructor decide every block that loses units, first to last.

    Args:
        source: Resident or Streamed weights of the dense model.
        reconstructor: its `targets` say what is measured.
        tokens: [samples, seq_len] int64; the last eighth is held out.
    """
    if len(tokens) < 2:
        raise SweepError.nothing_to_hold_out(len(tokens))
    held_out = max(1, round(len(tokens) * HELD_OUT))
    batches, dense, split = [], [], []
    for part in (tokens[:-held_out], tokens[-held_out:]):
        cut, streams = embed(source, part, batch_size)
        batches += list(cut)
        dense += streams
        split.append(len(batches))
    pruned = list(dense)
    needs_dense = {DENSE, RESIDUAL} & set(reconstructor.targets)
    changed: dict[str, Tensor] = {}
    notes: list[str] = []
    layers = source.layout.layers
    with torch.no_grad():
        for index, module in source.layers(range(len(layers))):
            layer = layers[index]
            own = {f"{layer.module}.{n}": p for n, p in module.named_parameters()}
            lower = _Layer(layer, module, batches, index)
            passages = [lower.run(own, b, x) for b, x in enumerate(dense)] if needs_dense else []
            weights = dict(own)
            for axis, block in layer.blocks.items():
                own_plan = plan.block(block)
                if own_plan.kept and own_plan.loses:
                    job = lower.job(block, own_plan, weights, pruned, passages, split, reconstructor.targets)
                    result = reconstructor(job)
                    plan = plan.with_kept(index, axis, result.kept)
                    written = {block.writer.weight: result.weight}
                    if block.writer.has_bias:
                        written[block.writer.bias] = result.bias
                    written = {name: tensor.to(own[name].dtype) for name, tensor in written.items()}
                    weights |= written
                    changed |= {name: tensor.cpu() for name, tensor in written.items()}
                    notes += [f"layer {index}, {axis}: {result.note}"] if result.note else []
                mine = [(name, weights[name]) for name in block.tensors()]
                weights |= dict(mask_tensors(mine, source.layout, plan))
            pruned = [lower.run(weights, b, x).after for b, x in enumerate(pruned)]
            if needs_dense:
                dense = [passage.after for passage in passages]
            progress(index + 1, len(layers))
    return Outcome(plan, changed, tuple(notes))


class _Layer:
    """One decoder layer that can be run with other weights than its own."""

    def __init__(self, layout: LayerLayout, module: nn.Module, batches: Sequence[Batch], index: int):
        self.layout, self.module, self.batches, self.index = layout, module, batches, index

    def run(self, weights: Mapping[str, Tensor], batch: int, x: Tensor) -> Passage:
        """Micro-batch x [batch, seq_len, hidden] through the layer with `weights` (by full name) in place of its own."""
        call = self.batches[batch].calls[self.index]
        with watched(self.layout, self.module) as run:
            return run(lambda module, x: run_layer(self.layout, module, call, weights, x), x)

    def job(self, block, plan, weights, pruned, dense, split, targets) -> BlockJob:
        writer = block.writer
        weight = weights[writer.weight].float()
        bias = weights[writer.bias].float() if writer.has_bias else None
        parts = []
        for first, last in zip([0, *split], split):
            sums = _Sums(weight, bias, targets)
            for b in range(first, last):
                passage = self.run(weights, b, pruned[b])
                x = passage.inputs[writer.module.removeprefix(f"{self.layout.module}.")].flatten(0, -2).float()
                sums.add(x, {t: _target(t, block.axis.name, passage, dense[b]) for t in targets if t != OWN})
            parts.append(sums.moments())
        return BlockJob(block, plan.kept, lines(plan, writer), writer, weight, bias, *parts)


def _target(target: str, axis: str, passage: Passage, dense: Passage) -> Tensor:
    """y [tokens, hidden] of a dense or residual target."""
    if target == DENSE:
        return dense.added[axis].flatten(0, -2).float()
    before = next(before for name, before, _ in passage.residuals() if name == axis)
    after = next(after for name, _, after in dense.residuals() if name == axis)
    return (after.float() - before.float()).flatten(0, -2)


class _Sums:
    """Moments as they add up over micro-batches."""

    def __init__(self, weight: Tensor, bias: Tensor | None, targets: Sequence[str]):
        out, width = weight.shape
        self.weight, self.bias, self.targets = weight, bias, targets
        self.tokens = 0
        self.total = weight.new_zeros(width)
        self.gram = weight.new_zeros(width, width)
        self.cross = {t: weight.new_zeros(out, width) for t in targets if t != OWN}
        self.power = dict.fromkeys(self.cross, 0.0)

    def add(self, x: Tensor, targets: Mapping[str, Tensor]) -> None:
        """x [tokens, in]; target -> y [tokens, out]."""
        self.tokens += len(x)
        self.total += x.sum(0)
        self.gram.addmm_(x.T, x)
        for name, y in targets.items():
            self.cross[name].addmm_(y.T, x)
            self.power[name] += float(y.double().square().sum())

    def moments(self) -> Moments:
        """Over all processes."""
        counts = self.total.new_tensor([self.tokens, *self.power.values()], dtype=torch.float64)
        add_up([self.total, self.gram, *self.cross.values(), counts])
        self.tokens = int(counts[0])
        cross, power = dict(self.cross), dict(zip(self.power, counts[1:].tolist()))
        if OWN in self.targets:  # Σ (W x + b) xᵀ and Σ |W x + b|² follow from the Gram matrix
            cross[OWN] = self.weight @ self.gram
            power[OWN] = float((cross[OWN].double() * self.weight).sum())
            if self.bias is not None:
                cross[OWN] = cross[OWN] + torch.outer(self.bias, self.total)
                power[OWN] += float(2 * self.bias.double() @ (self.weight @ self.total).double())
                power[OWN] += self.tokens * float(self.bias.double().square().sum())
        return Moments(self.tokens, self.total, self.gram, cross, power)
