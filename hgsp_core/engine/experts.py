"""What is measured of experts: how strong their outputs are, and how many tokens they get."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hgsp_core.engine.collectors import Collector, Depth
from hgsp_core.engine.layer import Layer, Passage
from hgsp_core.engine.sums import Sums


@dataclass(frozen=True)
class ExpertOutput(Collector):
    """Axis -> mean of w·‖E(x)‖₂ of each expert E over the tokens x that go to it, with the weight w that the router gives it.

    0 for an expert to which no token goes.
    """

    depth = Depth.FORWARD

    def observe(self, layer: Layer, passage: Passage, sums: Sums) -> None:
        for axis, routed in passage.routed.items():
            units = layer.layout.blocks[axis].units
            norms = torch.zeros(units, dtype=torch.float64, device=routed.x.device)
            for expert, _, y in routed.outputs():
                norms[expert] = torch.linalg.vector_norm(y, dim=-1, dtype=torch.float32).sum(dtype=torch.float64)
            sums.add(axis, norms)
            sums.add(f"{axis} tokens", routed.tokens(units))

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        axes = [axis for axis, block in layer.layout.blocks.items() if block.routed]
        return {axis: (sums[axis] / sums[f"{axis} tokens"].clamp_min(1)).cpu().numpy() for axis in axes}


@dataclass(frozen=True)
class ExpertTokens(Collector):
    """Axis -> share of the tokens that go to each expert; together they are as many as a token's experts."""

    depth = Depth.FORWARD

    def observe(self, layer: Layer, passage: Passage, sums: Sums) -> None:
        for axis, routed in passage.routed.items():
            sums.add(axis, routed.tokens(layer.layout.blocks[axis].units))

    def reduce(self, layer: Layer, sums: Sums) -> dict[str, np.ndarray]:
        return {axis: sums.numpy(axis) / layer.tokens for axis in sums}
