"""`llm_pruner`: group importance of LLM-Pruner (Ma et al. 2023, arXiv 2305.11627), aggregated by sum.

Of all weights that leave with a unit; biases count nothing, as in the authors' code. g = ∂L/∂W of the mean loss over
the calibration set, summed before any absolute value; g_n = ∂L_n/∂W of the mean loss of sample n alone.

    first    Σ |W·g|                                       element-wise, first order ("Element¹"; param_first in the code)
    mixed    Σ |W·g − ½ W²·H|,  H = mean over n of g_n²    element-wise with the Fisher diagonal for the Hessian (param_mix)
    vector   Σ over rows r of |Σ_j W_rj·g_rj|              vector-wise (vectorize); columns of o_proj and down_proj

`first` is the core's `taylor` where a model has no biases. The scores rank units inside a block, which is all that the
method does with them: it prunes a middle range of layers by one rate (recipe: `uniform` with ranges).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hgsp_baselines.llm_pruner_params import LLMPrunerParams
from hgsp_core import Collector, Depth, Layer, LayerStatistics, ScoreJob, Scorer, Scores, Sums


@dataclass(frozen=True)
class First(Collector):
    """Axis -> Σ |W·g| over each unit's weights."""

    depth = Depth.BACKWARD

    def reduce(self, layer: Layer, sums: Sums) -> LayerStatistics:
        return layer.per_unit(lambda name: (layer.weights[name] * layer.gradients[name]).abs_(), biases=False)


@dataclass(frozen=True)
class Mixed(Collector):
    """Axis -> Σ |W·g − ½ W²·H| over each unit's weights, H the mean of squared gradients of single samples."""

    depth = Depth.BACKWARD

    @property
    def gradient_batch(self) -> int | None:
        return 1

    def observe_gradient(self, layer: Layer, sums: Sums) -> None:
        for name, gradient in layer.gradients.items():
            sums.add(name, gradient.square())
        sums.add("samples", torch.ones(()))

    def reduce(self, layer: Layer, sums: Sums) -> LayerStatistics:
        def salience(name: str) -> Tensor:
            w = layer.weights[name].float()
            return (w * layer.gradients[name] - w.square() * sums[name] / (2 * sums["samples"])).abs_()

        return layer.per_unit(salience, biases=False)


@dataclass(frozen=True)
class Vector(Collector):
    """Axis -> Σ over a unit's rows (or columns) of |Σ W·g| along each."""

    depth = Depth.BACKWARD

    def reduce(self, layer: Layer, sums: Sums) -> LayerStatistics:
        found = {}
        for axis, block in layer.layout.written.items():
            parts = []
            for s in block.linears:
                product = s.part(layer.weights[s.weight]) * s.part(layer.gradients[s.weight])
                lines = product.sum(1 - s.dim).abs_()  # [units * width]
                parts.append(lines.double().view(block.units, s.width).sum(1))
            found[axis] = sum(parts[1:], parts[0]).cpu().numpy()
        return found


class LLMPruner(Scorer[LLMPrunerParams]):
    """Computes the group Taylor importance of LLM-Pruner, without biases.

    Formula: `first`: `Σ |W·g|`. `mixed`: `Σ |W·g − ½ W²·H|`, where H is the mean of g² over samples. `vector`: `Σ |Σ
        W·g|`, the inner sum along each row or column.
    Source: LLM-Pruner (Ma et al. 2023, arXiv 2305.11627), aggregated by sum.
    Cost: one forward and one backward; `mixed` with single samples as gradient batches.
    When: with `uniform` over a middle range of layers.
    """

    def __init__(self, params: LLMPrunerParams):
        super().__init__(params)
        kinds: dict[str, type[Collector]] = {"first": First, "mixed": Mixed, "vector": Vector}
        self.collectors = (kinds[params.importance](),)

    def __call__(self, job: ScoreJob) -> Scores:
        return Scores.of(job.layout, job.statistics[self.collectors[0]])
