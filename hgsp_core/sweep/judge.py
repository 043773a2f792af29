"""How far a plan takes the model from the dense one, without cutting it: the KL divergence on held-out windows.

A plan is tried with masks, and each writer (o_proj, down_proj) that loses columns is fitted to the output that it had, in
closed form (`ridge.py`) from the dense model's Gram matrices: an estimate of what a repair will get back. Judged by masks
alone, a search chooses plans that are worse once they are repaired (docs/benchmarks.md).

`repaired` judges a plan by the real repair instead, at its price, and on windows of its own: a plan that was chosen for what
it does on some windows, with writers fitted to some others, is better there by luck, too.

Plans that share their first layers share the work: only the layers from the first difference to the base plan are run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hgsp_core.artifacts import BlockPlan, Plan
from hgsp_core.checkpoint.on_disk import OnDisk
from hgsp_core.errors import SweepError
from hgsp_core.layout import BlockLayout, LayerLayout
from hgsp_core.surgery import lines, mask_tensors
from hgsp_core.sweep.batches import Batches, embed
from hgsp_core.sweep.forward import watched
from hgsp_core.sweep.loss import divergence_sum
from hgsp_core.sweep.memory import SHARE, free_bytes
from hgsp_core.sweep.parallel import add_up
from hgsp_core.sweep.replaced import own_weights, run_layer
from hgsp_core.sweep.ridge import ridge_fit
from hgsp_core.sweep.sequential import repair
from hgsp_core.sweep.weights import Resident

#: of the mean diagonal of a Gram matrix, what is added to it
RIDGE = 0.01

class InMemory(dict[str, Tensor]):
    """As `OnDisk`, without a disk."""

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        self.update(tensors)


Layers = Sequence[Mapping[str, BlockPlan]]


class Judge:
    """Plan -> mean over the predicted tokens of KL(dense ‖ plan), in nats."""

    def __init__(
        self,
        source,
        tokens: np.ndarray,
        held_out: int,
        batch_size: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ):
        """Run the dense model once, over all windows.

        Args:
            source: Resident or Streamed weights of the dense model.
            tokens: [samples, seq_len] int64; the last `held_out` judge, the others feed the Gram matrices.
        Raises:
            SweepError: too few samples.
        """
        if not 0 < held_out < len(tokens):
            raise SweepError.nothing_to_judge(held_out, len(tokens))
        writers = [block.writer for block in source.layout.blocks()]
        needed = sum(4 * writer.shape[1] ** 2 for writer in writers)
        self.source = source
        self._tokens, self._held_out, self._batch_size = tokens, held_out, batch_size
        self._confirming: tuple[Batches, list[Tensor]] | None = None  # other windows, and the dense model's last stream
        #: writer's module -> G [in, in] fp32; on disk where the host has no room: of a wide model they are larger than it
        self._grams: InMemory | OnDisk = InMemory()
        if needed > SHARE * free_bytes(torch.device("cpu")):
            self._folder = tempfile.TemporaryDirectory(prefix="hgsp-")
            self._grams = OnDisk(Path(self._folder.name) / "grams")
        self._written: dict[tuple[int, str], dict[BlockPlan, dict[str, Tensor]]] = {}
        with torch.no_grad():
            fit, streams = embed(source, tokens[:-held_out], batch_size)
            self.batches, judged = embed(source, tokens[-held_out:], batch_size)
            self._trail = [judged]  # what enters each layer, and after the last one what leaves it, of the base plan
            layers = source.layout.layers
            for index, module in source.layers(range(len(layers))):
                streams = self._measure(layers[index], module, fit, streams)
                self._trail.append([b.calls[index](module, x) for b, x in zip(self.batches, self._trail[-1])])
                progress(index + 1, len(layers))
        self.dense = self._trail[-1]
        self._base: Layers = Plan.keep_all(source.layout).layers
        self._last: tuple[Layers, int, list[list[Tensor]]] | None = None

    def __call__(self, plan: Plan) -> float:
        """KL of the plan. Units that go are masked, writers that lose columns fitted."""
        layers = self.source.layout.layers
        first = self._first_difference(plan.layers)
        streams, trail = self._trail[first], []
        with torch.no_grad():
            for index, module in self.source.layers(range(first, len(layers))):
                own = own_weights(layers[index], module)
                weights = own | self._masked(layers[index], own, plan)
                streams = [
                    run_layer(layers[index], module, b.calls[index], weights, x) for b, x in zip(self.batches, streams)
                ]
                trail.append(streams)
            self._last = plan.layers, first, trail
            return self._divergence(self.dense, streams) / self.batches.predicted

    def repaired(self, plan: Plan, reconstructor, changed) -> float:
        """KL of the plan as the reconstructor leaves it, on the first `held_out` windows; it is fitted on all others.

        Args:
            changed: `keep(tensors)` and `get(name, otherwise)` hold what the repair changes (`checkpoint/on_disk.py`).
        """
        if reconstructor.targets:
            fit = self._tokens[self._held_out :]
            plan = repair(self.source, plan, reconstructor, fit, self._batch_size, changed.keep)

        def pruned(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
            mine = ((name, changed.get(name, tensor).to(self.source.device)) for name, tensor in own.items())
            return dict(mask_tensors(mine, self.source.layout, plan))

        with torch.no_grad():
            if self._confirming is None:
                batches, streams = embed(self.source, self._tokens[: self._held_out], self._batch_size)
                self._confirming = batches, self._through(batches, streams, lambda own: own)
            batches, dense = self._confirming
            _, streams = embed(self.source, self._tokens[: self._held_out], self._batch_size)
            return self._divergence(dense, self._through(batches, streams, pruned)) / batches.predicted

    def _through(
        self, batches: Batches, streams: list[Tensor], weights: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    ) -> list[Tensor]:
        """The streams after the last layer. weights: a layer's own tensors, by full name -> those to run it with."""
        layers = self.source.layout.layers
        for index, module in self.source.layers(range(len(layers))):
            layer = layers[index]
            mine = weights(own_weights(layer, module))
            streams = [run_layer(layer, module, b.calls[index], mine, x) for b, x in zip(batches, streams)]
        return streams

    def rebase(self, plan: Plan) -> None:
        """Make the plan the base: plans that differ from it in late layers only are then judged quickest."""
        if plan.layers == self._base:
            return
        if self._last is None or self._last[0] != plan.layers:
            self(plan)
        self._base, first, trail = self._last
        self._trail[first + 1 :] = trail
        for (index, axis), written in self._written.items():
            own = self._base[index][axis]
            self._written[index, axis] = {own: written[own]} if own in written else {}

    def _first_difference(self, planned: Layers) -> int:
        """Index of the first layer that differs from the base plan; the number of layers where none does."""
        return next((i for i, (a, b) in enumerate(zip(planned, self._base)) if a != b), len(planned))

    def _measure(self, layout: LayerLayout, module, fit: Batches, streams: list[Tensor]) -> list[Tensor]:
        """Add up the Gram matrices of one layer's writers; returns what leaves the layer."""
        grams = {
            block.writer.module: torch.zeros(block.writer.shape[1], block.writer.shape[1], device=self.source.device)
            for block in layout.blocks.values()
        }
        after = []
        with watched(layout, module) as run:
            for batch, x in zip(fit, streams):
                passage = run(batch.calls[int(layout.index)], x)
                for name, gram in grams.items():
                    seen = passage.inputs[name.removeprefix(f"{layout.module}.")].flatten(0, -2).float()
                    gram.addmm_(seen.T, seen)
                after.append(passage.after)
        add_up(grams.values())
        self._grams.keep({name: gram.cpu() for name, gram in grams.items()})
        return after

    def _masked(self, layout: LayerLayout, own: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        """Full name -> the writers' tensors that differ from the layer's own."""
        changed = {}
        for axis, block in layout.blocks.items():
            planned = plan.block(block)
            if planned.loses:
                known = self._written.get((layout.index, axis), {})
                fitted = known[planned] if planned in known else self._fitted(block, planned, own)
                if isinstance(self.source, Resident):  # there is room for weights of the base plan and of the last one
                    base = self._base[layout.index][axis]
                    kept = {base: known[base]} if base in known else {}
                    self._written[layout.index, axis] = {**kept, planned: fitted}
                changed |= fitted
        return changed

    def _fitted(self, block: BlockLayout, planned: BlockPlan, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The writer of one block at its old size: columns that go are zero, the others fitted to its old output."""
        writer = block.writer
        weight = own[writer.weight]
        found = {writer.weight: torch.zeros_like(weight)}
        if planned.kept:
            columns = lines(planned, writer)
            gram = self._grams.get(writer.module)
            cross = weight.detach().to("cpu", torch.float32) @ gram[:, columns]  # Σ (W x) xᵀ [out, kept]
            stays, device = columns.to(weight.device), weight.device
            fitted = ridge_fit(gram[columns][:, columns].to(device), cross.to(device), RIDGE, weight[:, stays])
            found[writer.weight][:, stays] = fitted.to(weight.dtype)
        elif writer.has_bias:
            found[writer.bias] = torch.zeros_like(own[writer.bias])
        return found

    def _divergence(self, dense: Sequence[Tensor], streams: Sequence[Tensor]) -> float:
        architecture = self.source.layout.architecture
        total = torch.zeros((), dtype=torch.float64, device=self.source.device)
        with self.source.outside(architecture.norm, architecture.head) as (norm, head):
            for before, after in zip(dense, streams):
                total += divergence_sum(norm, head, before, after)
        add_up([total])
        return total.item()
