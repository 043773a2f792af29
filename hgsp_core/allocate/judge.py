"""How far a plan takes the model from the dense one, without cutting it: the KL divergence on held-out windows.

A plan is tried with masks, and each writer (o_proj, down_proj) that loses columns is fitted to the output that it had, in
closed form (`ridge.py`) from the dense model's Gram matrices: an estimate of what a repair will get back. Judged by masks
alone, a search chooses plans that are worse once they are repaired (docs/benchmarks/tried.md).

`repaired` judges a plan by the real repair instead, at its price, on one half of the other windows with the repair fitted to
the other half: a plan that was chosen for what it does on the windows it was fitted to is better there by luck, too.

Layers before the first one that loses units are those of the dense model: a plan is run from there on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hgsp_core.allocate.contract import LEAST_HALF
from hgsp_core.artifacts import BlockPlan, Plan
from hgsp_core.artifacts.surgery import lines, mask_tensors
from hgsp_core.checkpoint.on_disk import OnDisk
from hgsp_core.engine.batches import Batches, embed
from hgsp_core.engine.errors import SweepError
from hgsp_core.engine.forward import watched
from hgsp_core.engine.loss import divergence, predicted
from hgsp_core.engine.memory import SHARE, free_bytes
from hgsp_core.engine.parallel import of_all
from hgsp_core.engine.replaced import own_weights, run_layer
from hgsp_core.engine.sums import Sums
from hgsp_core.engine.weights import Weights
from hgsp_core.model.layout import BlockLayout, LayerLayout
from hgsp_core.repair.contract import Reconstructor
from hgsp_core.repair.ridge import ridge_fit
from hgsp_core.repair.sequential import repair_blocks

#: the most that the dense model's predictions on the windows that judge may take: computed once, they need not be for each plan
LOG_P_BYTES = 2**29


class InMemory(dict[str, Tensor]):
    """As `OnDisk`, without a disk."""

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        self.update(tensors)


class Judge:
    """Plan -> mean over the predicted tokens of KL(dense ‖ plan), in nats."""

    def __init__(self, source: Weights, tokens: np.ndarray, held_out: int, batch_size: int):
        """Run the dense model once, over all windows.

        Args:
            source: of the dense model.
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
        self._dense_of: dict[int, list[Tensor]] = {}  # half -> what leaves the dense model's last layer
        #: writer's module -> G [in, in] fp32; on disk where the host has no room: of a wide model they are larger than it
        self._grams: InMemory | OnDisk = InMemory()
        if needed > SHARE * free_bytes(torch.device("cpu")):
            self._folder = tempfile.TemporaryDirectory(prefix="hgsp-")
            self._grams = OnDisk(Path(self._folder.name) / "grams")
        with torch.no_grad():
            fit, streams = embed(source, tokens[:-held_out], batch_size)
            self._fitted_tokens = fit.tokens
            self.batches, judged = embed(source, tokens[-held_out:], batch_size)
            self._trail = [judged]  # what enters each layer of the dense model, and after the last one what leaves it
            layers = source.layout.layers
            for index, module in source.layers(range(len(layers))):
                streams = self._measure(layers[index], module, fit, streams)
                self._trail.append(
                    [b.calls[index](module, x) for b, x in zip(self.batches, self._trail[-1], strict=True)]
                )
            #: log p of the dense model, for each micro-batch that judges; None where it takes much room
            self._log_p: list[Tensor | None] = [None] * len(judged)
            architecture = source.layout.architecture
            if 4 * tokens[-held_out:].size * source.layout.outside[f"{architecture.embed}.weight"][0] <= LOG_P_BYTES:
                with source.outside(architecture.norm, architecture.head) as (norm, head):
                    self._log_p = [predicted(norm, head, x) for x in self._trail[-1]]

    def __call__(self, plan: Plan) -> float:
        """KL of the plan. Units that go are masked, writers that lose columns fitted."""
        layers = self.source.layout.layers
        whole = [not any(plan.block(block).loses for block in layer.blocks.values()) for layer in layers]
        first = whole.index(False) if False in whole else len(layers)
        streams = self._trail[first]
        with torch.no_grad():
            for index, module in self.source.layers(range(first, len(layers))):
                own = own_weights(layers[index], module)
                weights = own | self._masked(layers[index], own, plan)
                streams = [
                    run_layer(layers[index], module, b.calls[index], weights, x)
                    for b, x in zip(self.batches, streams, strict=True)
                ]
            return float(self._divergence(self._trail[-1], streams, log_p=self._log_p).mean())

    def repaired(
        self, plan: Plan, half: int, reconstructor: Reconstructor[Any], changed: InMemory | OnDisk
    ) -> np.ndarray:
        """[windows]: KL of the plan as the reconstructor leaves it, on one half (0 or 1) of the windows not held out.

        Args:
            reconstructor: what it fits, it fits to the other half.
            changed: is to hold what the repair changes.

        Raises:
            SweepError: too few samples.
        """
        halves = np.array_split(self._tokens[: -self._held_out], 2)
        if len(halves[1]) < LEAST_HALF:
            raise SweepError.nothing_to_confirm(self._held_out, len(self._tokens))
        if reconstructor.targets:
            plan = repair_blocks(self.source, plan, reconstructor, halves[1 - half], self._batch_size, changed.keep)

        def pruned(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
            mine = ((name, changed.get(name, tensor).to(self.source.device)) for name, tensor in own.items())
            return dict(mask_tensors(mine, self.source.layout, plan))

        with torch.no_grad():
            batches, streams = embed(self.source, halves[half], self._batch_size)
            if half not in self._dense_of:
                self._dense_of[half] = self._through(batches, streams, lambda own: own)
            head = self.source.layout.head
            return self._divergence(
                self._dense_of[half], self._through(batches, streams, pruned), changed.get(head) if head else None
            )

    def _through(
        self, batches: Batches, streams: list[Tensor], weights: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    ) -> list[Tensor]:
        """The streams after the last layer. weights: a layer's own tensors, by full name -> those to run it with."""
        layers = self.source.layout.layers
        for index, module in self.source.layers(range(len(layers))):
            layer = layers[index]
            mine = weights(own_weights(layer, module))
            streams = [run_layer(layer, module, b.calls[index], mine, x) for b, x in zip(batches, streams, strict=True)]
        return streams

    def _measure(self, layout: LayerLayout, module: nn.Module, fit: Batches, streams: list[Tensor]) -> list[Tensor]:
        """Add up the Gram matrices of one layer's writers; returns what leaves the layer."""
        grams = Sums()
        after = []
        with watched(layout, module) as run:
            for batch, x in zip(fit, streams, strict=True):
                passage = run(batch.calls[int(layout.index)], x)
                for block in layout.blocks.values():
                    grams.add_gram(block.writer.module, passage.inputs[block.writer.local].flatten(0, -2))
                after.append(passage.after)
        grams.add_up()
        self._grams.keep({name: gram.cpu() for name, gram in grams.items()})
        return after

    def _masked(self, layout: LayerLayout, own: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
        """Full name -> the writers' tensors that differ from the layer's own."""
        changed: dict[str, Tensor] = {}
        for block in layout.blocks.values():
            planned = plan.block(block)
            if planned.loses:
                changed |= self._fitted(block, planned, own)
        return changed

    def _fitted(self, block: BlockLayout, planned: BlockPlan, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The writer of one block at its old size: columns that go are zero, the others fitted to its old output."""
        writer = block.writer
        weight = own[writer.weight]
        found = {writer.weight: torch.zeros_like(weight)}
        if planned.kept:
            columns = lines(planned, writer)
            gram = self._grams.get(writer.module)
            assert gram is not None  # every writer's was kept
            cross = weight.detach().to("cpu", torch.float32) @ gram[:, columns]  # Σ (W x) xᵀ [out, kept]
            stays, device = columns.to(weight.device), weight.device
            ridge = weight.shape[1] / self._fitted_tokens  # the old weights count as much as one token for each column
            fitted = ridge_fit(gram[columns][:, columns].to(device), cross.to(device), ridge, weight[:, stays])
            found[writer.weight][:, stays] = fitted.to(weight.dtype)
        elif writer.has_bias:
            found[writer.bias] = torch.zeros_like(own[writer.bias])
        return found

    def _divergence(
        self,
        dense: Sequence[Tensor],
        streams: Sequence[Tensor],
        head_weight: Tensor | None = None,
        log_p: Sequence[Tensor | None] | None = None,
    ) -> np.ndarray:
        """[windows]. head_weight: the head's for `streams`; None = its own. log_p: of `dense`, where it is known."""
        architecture = self.source.layout.architecture
        with self.source.outside(architecture.norm, architecture.head) as (norm, head):
            weight = None if head_weight is None else head_weight.to(self.source.device)
            known = log_p or [None] * len(dense)
            found = [divergence(norm, head, x, y, weight, p) for x, y, p in zip(dense, streams, known, strict=True)]
        return of_all(torch.cat(found)).cpu().numpy()
