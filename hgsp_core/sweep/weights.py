"""Where a sweep's weights come from. A source hands out decoder layers one at a time, in any order asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hgsp_core.layout import Layout


class Resident:
    """A transformers model that is loaded whole. It is put in evaluation mode; nothing else of it changes."""

    def __init__(self, model: nn.Module, layout: Layout):
        self.model = model.eval()
        self.layout = layout

    @property
    def device(self) -> torch.device:
        return self.model.get_submodule(self.layout.architecture.embed).weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_submodule(self.layout.architecture.embed).weight.dtype

    def layers(self, order: Iterable[int]) -> Iterator[tuple[int, nn.Module]]:
        """(index, module) in the given order; a module's weights are there until the next one is asked for."""
        for index in order:
            yield index, self.model.get_submodule(self.layout.layers[index].module)

    @contextmanager
    def outside(self, *names: str) -> Iterator[list[nn.Module]]:
        """Modules that no layer owns (embedding, final norm, head), with their weights within the context."""
        yield [self.model.get_submodule(name) for name in names]
