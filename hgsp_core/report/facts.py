"""What the files, the pictures and the page of a run are made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hgsp_core.artifacts import Plan, Priors, Scores
from hgsp_core.model.layout import Layout
from hgsp_core.report.contract import Diagnosis, Report
from hgsp_core.report.outcome import LayerOutcome, outcomes
from hgsp_core.runtime.recipe import Recipe


@dataclass(frozen=True)
class RunFacts:
    """A finished run. `report` and `diagnosis` are the contents of report.json and gradient_diagnosis.json."""

    recipe: Recipe
    layout: Layout
    plan: Plan
    scores: Scores
    priors: Priors | None
    report: Report
    diagnosis: Diagnosis

    @cached_property
    def layers(self) -> list[LayerOutcome]:
        return outcomes(self.layout, self.plan)

    @property
    def axes(self) -> list[str]:
        """Of at least one layer."""
        there = {block.axis.name for block in self.layout.blocks()}
        return [axis.name for axis in self.layout.architecture.axes if axis.name in there]

    @property
    def model(self) -> str:
        return Path(self.recipe.model.path).name

    @property
    def removed(self) -> tuple[float, float]:
        """Removed share of the parameters: of the model, and of its decoder layers."""
        removed = self.plan.removed(self.layout)
        return removed / self.layout.parameters, removed / self.layout.layer_parameters

    @property
    def title(self) -> str:
        return f"{self.model}, {self.removed[0]:.1%} smaller"

    @cached_property
    def kept(self) -> np.ndarray:
        """1 where the unit of that row of the scores is kept, else 0. [units]."""
        scores = self.scores
        size = len(self.layout.layers), len(scores.axes), max(block.units for block in self.layout.blocks())
        stays = np.zeros(size, dtype=np.int8)
        for block in self.layout.blocks():
            stays[block.layer, scores.axes.index(block.axis.name), list(self.plan.block(block).kept)] = 1
        return stays[scores.layer, scores.axis, scores.index]

    def layer_table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of what became of each layer, and its priors where there are any."""
        header = ["layer", *(f"{axis} kept" for axis in self.axes), "before", "after", "removed"]
        header += ["prior", *(f"prior {axis}" for axis in self.axes)] if self.priors else []
        rows = []
        for layer in self.layers:
            row = [str(layer.index)]
            row += [layer.blocks[axis].text() if axis in layer.blocks else "-" for axis in self.axes]
            row += [f"{layer.before:,}", f"{layer.after:,}", f"{layer.rate:.1%}"]
            if self.priors:
                nothing = np.full(len(self.layers), np.nan)
                columns = [self.priors.layer, *(self.priors.blocks.get(axis, nothing) for axis in self.axes)]
                row += [_number(column[layer.index]) for column in columns]
            rows.append(row)
        return header, rows


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4g}"
