"""How large the gradients, or the scores, of each layer are: what a diagnosis looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hgsp_core.artifacts.calibration import LayerStatistics
from hgsp_core.artifacts.scores import Scores


@dataclass(frozen=True)
class Scales:
    """How large the gradients of each layer are, or, without gradients, the scores of its units. Columns [layers].

    NaN for a layer without scores.
    """

    source: str
    mean: np.ndarray
    std: np.ndarray
    norm: np.ndarray
    max: np.ndarray
    min: np.ndarray

    @classmethod
    def of_gradients(cls, layers: Sequence[LayerStatistics]) -> Scales:
        """From what the sweep's GradientScale found."""
        names = ("mean", "std", "norm", "max", "min")
        return cls("gradients", **{name: np.array([float(layer[name]) for layer in layers]) for name in names})

    @classmethod
    def of_scores(cls, scores: Scores, layers: int) -> Scales:
        """Of the units' absolute scores as measured, before normalizers."""
        sizes = [np.abs(scores.score[scores.layer == i]) for i in range(layers)]
        sizes = [x if len(x) else np.array([np.nan]) for x in sizes]
        measures = (np.mean, np.std, lambda x: np.sqrt((x**2).sum()), np.max, np.min)
        return cls("scores", *(np.array([measure(x) for x in sizes]) for measure in measures))

    @property
    def what(self) -> str:
        """What the numbers are, for a reader."""
        if self.source == "gradients":
            return "absolute gradients of the mean calibration loss, over all weights of a layer's units"
        return "absolute scores of a layer's units before normalizers; this run took no gradients"
