"""The results of collectors, layer by layer, each checked to be finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from hgsp_core.artifacts import LayerStatistics, Statistics
from hgsp_core.engine.collectors import Collector
from hgsp_core.engine.layer import Layer
from hgsp_core.engine.sums import Sums
from hgsp_core.errors import NumericError


class Findings:
    """Collector key -> its result in each layer.

    of_all_units: that of the weights (`Weights.of_all_units`).
    """

    def __init__(
        self,
        collectors: Sequence[Collector],
        layers: int,
        of_all_units: Callable[[int, LayerStatistics], LayerStatistics] = lambda layer, found: found,
    ):
        self._of_all_units = of_all_units
        self._values: dict[str, list[LayerStatistics]] = {c.key: [{}] * layers for c in collectors}

    def add(self, collector: Collector, layer: Layer, sums: Sums) -> None:
        """Reduce one layer's sums, over all processes, and keep the result.

        Raises:
            NumericError: naming the layer and the tensor at fault.
        """
        sums.add_up()
        found = {name: np.asarray(array) for name, array in collector.reduce(layer, sums).items()}
        for name, array in found.items():
            if not np.isfinite(array).all():
                check_weights(layer)
                raise NumericError.statistic(layer.layout.index, collector.key, name)
        self._values[collector.key][layer.layout.index] = self._of_all_units(layer.layout.index, found)

    def statistics(self) -> Statistics:
        return Statistics({key: tuple(layers) for key, layers in self._values.items()})


def is_finite(*tensors: Tensor) -> bool:
    """Whether no entry is NaN or infinite. Entries are only read if a sum, which can overflow, is not finite.

    The host waits for the device once for all tensors.
    """
    totals = torch.stack([tensor.sum(dtype=torch.float32) for tensor in tensors])
    return bool(totals.isfinite().all()) or all(bool(tensor.isfinite().all()) for tensor in tensors)


def check_weights(layer: Layer) -> None:
    """Raise NumericError for the first weight of the layer that is not finite, if there is one."""
    for name, weight in layer.weights.items():
        if not is_finite(weight):
            raise NumericError.weight(name)
