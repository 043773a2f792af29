"""The weights of a model: resident in memory, streamed from a checkpoint, or masked by a plan."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hgsp_core.artifacts import LayerStatistics, Plan
from hgsp_core.artifacts.surgery import mask_tensors
from hgsp_core.checkpoint.load import require_agreement, skeleton
from hgsp_core.checkpoint.shards import Shards
from hgsp_core.engine.replaced import experts_counted
from hgsp_core.model.layout import LayerLayout, Layout

#: mallopt(3): the number of the parameter, and blocks of how many bytes are mapped one by one
_M_MMAP_THRESHOLD, _MMAP_THRESHOLD = -3, 2**20


class Weights(ABC):
    """The weights of a model, which gives out decoder layers one at a time, in any order.

    model   its modules; those that are not given out may be on the meta device
    device  of the weights that are given out;  dtype  their dtype
    stays   whether all weights stay in memory, so that graphs over them can be kept
    """

    stays: ClassVar[bool]
    model: PreTrainedModel
    layout: Layout
    device: torch.device
    dtype: torch.dtype

    @abstractmethod
    def layers(self, order: Iterable[int]) -> Iterator[tuple[int, nn.Module]]:
        """(index, module) in the given order; a module's weights are there until the next one is asked for."""

    def of_all_units(self, layer: int, found: LayerStatistics) -> LayerStatistics:
        """A layer's statistics for all units of the model, also for those that these weights lack."""
        return found

    @abstractmethod
    def outside(self, *names: str) -> AbstractContextManager[list[nn.Module]]:
        """Modules that no layer owns (embedding, final norm, head), with their weights within the context."""


class Resident(Weights):
    """A transformers model in memory. It is put in evaluation mode and not changed otherwise."""

    stays = True

    def __init__(self, model: PreTrainedModel, layout: Layout):
        self.model = model.eval()
        self.layout = layout
        weight = model.get_parameter(f"{layout.architecture.embed}.weight")
        self.device, self.dtype = weight.device, weight.dtype

    def layers(self, order: Iterable[int]) -> Iterator[tuple[int, nn.Module]]:
        for index in order:
            yield index, self.model.get_submodule(self.layout.layers[index].module)

    @contextmanager
    def outside(self, *names: str) -> Iterator[list[nn.Module]]:
        yield [self.model.get_submodule(name) for name in names]


class Streamed(Weights):
    """A checkpoint directory: one layer is in memory while the next one is read.

    The model is a skeleton on the meta device. Layers take turns in two buffers that are allocated once.
    """

    stays = False

    def __init__(self, directory: Path | str, layout: Layout, dtype: torch.dtype, device: str | torch.device = "cpu"):
        """Read the layout; no weight yet.

        Args:
            dtype: of the weights in memory; they are converted while read.

        Raises:
            CheckpointError: a file that is missing or damaged, config.json and tensors that disagree.
        """
        self.layout, self.dtype, self.device = layout, dtype, torch.device(device)
        _give_back_freed_memory()
        self.shards = Shards(directory, layout.architecture)
        self.model = _skeleton(directory, dtype, self.device)
        require_agreement(directory, self.model, layout.shapes())
        self._names = [
            [f"{layer.module}.{name}" for name, _ in self.model.get_submodule(layer.module).named_parameters()]
            for layer in layout.layers
        ]
        size = max(sum(prod(self.shards.shape(name)) for name in names) for names in self._names)
        pinned = self.device.type == "cuda"
        self._buffers = [torch.empty(size, dtype=dtype, pin_memory=pinned) for _ in range(2)]

    def layers(self, order: Iterable[int]) -> Iterator[tuple[int, nn.Module]]:
        order = list(order)
        with ThreadPoolExecutor(1) as reader:

            def read(turn: int) -> Future[dict[str, Tensor]]:
                return reader.submit(self._read, self._names[order[turn]], self._buffers[turn % 2])

            coming = read(0)
            for turn, index in enumerate(order):
                tensors = coming.result()
                if turn + 1 < len(order):
                    coming = read(turn + 1)
                prefix = self.layout.layers[index].module
                module = self.model.get_submodule(prefix)
                with _filled(prefix, module, tensors):
                    yield index, module

    @contextmanager
    def outside(self, *names: str) -> Iterator[list[nn.Module]]:
        with ExitStack() as stack:
            modules = [self.model.get_submodule(name) for name in names]
            for name, module in zip(names, modules, strict=True):
                tensors = self._read(f"{name}.{own}" for own, _ in module.named_parameters())
                stack.enter_context(_filled(name, module, tensors))
            yield modules

    def _read(self, names: Iterable[str], buffer: Tensor | None = None) -> dict[str, Tensor]:
        """The named tensors on the device, as parts of `buffer` where one is given."""
        tensors, start = {}, 0
        for name in names:
            stored = self._stored_name(name)
            shape = self.shards.shape(stored)
            if buffer is None:
                target = torch.empty(shape, dtype=self.dtype)
            else:
                target = buffer[start : start + prod(shape)].view(shape)
                start += prod(shape)
            self.shards.read_into(stored, target)
            tensors[name] = target.to(self.device)
        return tensors

    def _stored_name(self, name: str) -> str:
        """A tied head is stored as the embedding."""
        architecture = self.layout.architecture
        tied = name.startswith(f"{architecture.head}.") and name not in self.shards
        return f"{architecture.embed}{name.removeprefix(architecture.head)}" if tied else name


def _give_back_freed_memory() -> None:
    """Tell glibc to map large blocks one by one, so that a freed layer leaves no holes.

    A process under a hard limit would otherwise run out of addresses after some dozen layers. Other C libraries do so
    anyway, or have no such call.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


def _skeleton(directory: Path | str, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model of a checkpoint with all parameters on the meta device and its buffers (rotary tables) real.

    transformers itself makes the buffers of a loaded model so: built on meta, filled by the model's `_init_weights`.
    """
    model = skeleton(directory, dtype)
    for module in model.modules():
        buffers = dict(module.named_buffers(recurse=False))
        for name, buffer in buffers.items():
            setattr(module, name, torch.full_like(buffer, float("nan"), device=device))  # a forgotten one shows
        if buffers:
            model._init_weights(module)
    return model.eval()


@contextmanager
def _filled(prefix: str, module: nn.Module, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Within the context the module's parameters are the tensors, by full name; afterwards they are on meta again."""
    module.load_state_dict({name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items()}, assign=True)
    try:
        yield
    finally:
        module.load_state_dict({name: p.to("meta") for name, p in module.named_parameters()}, assign=True)


class Masked(Weights):
    """Weights with the units that a plan removes set to zero: the pruned model at its old size.

    Experts are cut, not set to zero: a layer that keeps some has a layout with only those.
    """

    stays = False  # the masked weights of a layer are made anew each time it is visited

    def __init__(self, weights: Weights, plan: Plan):
        self._weights, self._plan = weights, plan
        self.model, self.device, self.dtype = weights.model, weights.device, weights.dtype
        self.layout = replace(weights.layout, layers=tuple(map(self._cut, weights.layout.layers)))

    def _cut(self, layer: LayerLayout) -> LayerLayout:
        """The layer's layout with the experts that are kept."""
        blocks = dict(layer.blocks)
        for axis, block in blocks.items():
            if block.routed and (kept := self._plan.block(block).kept):
                blocks[axis] = block.resized(layer.index, layer.module, layer.module, len(kept), block.heads)
        return replace(layer, blocks=blocks)

    def of_all_units(self, layer: int, found: LayerStatistics) -> LayerStatistics:
        whole = dict(found)
        for axis, block in self._weights.layout.layers[layer].blocks.items():
            cut = self.layout.layers[layer].blocks[axis]
            if axis in found and np.shape(found[axis]) == (cut.units,) != (block.units,):
                whole[axis] = np.zeros(block.units, found[axis].dtype)
                whole[axis][list(self._plan.block(block).kept)] = found[axis]
        return whole

    def outside(self, *names: str) -> AbstractContextManager[list[nn.Module]]:
        return self._weights.outside(*names)

    def layers(self, order: Iterable[int]) -> Iterator[tuple[int, nn.Module]]:
        for index, module in self._weights.layers(order):
            layer = self.layout.layers[index]
            own = dict(module.named_parameters())
            named = ((f"{layer.module}.{name}", parameter.detach()) for name, parameter in own.items())
            masked = dict(mask_tensors(named, self._weights.layout, self._plan))
            _place(module, {layer.local(name): nn.Parameter(t, requires_grad=False) for name, t in masked.items()})
            try:
                with experts_counted(layer, module, masked):
                    yield index, module
            finally:
                _place(module, own)


def _place(module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put parameters in place of those of the module; a cut one has another shape, which `load_state_dict` refuses."""
    for name, parameter in parameters.items():
        place, _, own = name.rpartition(".")
        module.get_submodule(place).register_parameter(own, parameter)
