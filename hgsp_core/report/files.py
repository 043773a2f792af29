"""The files of a run that people read: a table of every unit, a summary by layer, and a picture of what stays."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hgsp_core.artifacts import Plan, Priors, Scores
from hgsp_core.layout import Layout
from hgsp_core.recipe import Recipe
from hgsp_core.report.picture import draw_layers
from hgsp_core.report.tables import HEADER, headline


def write_reports(
    directory: Path,
    recipe: Recipe,
    layout: Layout,
    plan: Plan,
    scores: Scores,
    priors: Priors | None,
    report: Mapping[str, Any],
) -> None:
    """Write `global_group_table.csv`, `pruning_summary_by_layer.txt` and `layers.png` into the run directory."""
    write_unit_table(directory / "global_group_table.csv", layout, plan, scores)
    text = summary(recipe, layout, plan, priors, report)
    (directory / "pruning_summary_by_layer.txt").write_text(text, encoding="utf-8")
    draw_layers(directory / "layers.png", layout, plan, title=_title(recipe, layout, plan))


def write_unit_table(path: Path, layout: Layout, plan: Plan, scores: Scores) -> None:
    """One line a unit: layer, kind, index, importance, cost, score (low goes first), kept (1 or 0)."""
    kinds, kept = np.array(scores.axes)[scores.axis], kept_mask(layout, plan, scores)
    columns = (scores.layer, kinds, scores.index, scores.importance, scores.cost, scores.score, kept)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("layer", "kind", "index", "importance", "cost", "score", "kept"))
        writer.writerows(zip(*(column.tolist() for column in columns)))


def kept_mask(layout: Layout, plan: Plan, scores: Scores) -> np.ndarray:
    """1 where the unit of that row of the scores stays, else 0. [units]"""
    stays = np.zeros((len(layout.layers), len(scores.axes), 1 + int(scores.index.max(initial=0))), dtype=np.int8)
    for block in layout.blocks():
        stays[block.layer, scores.axes.index(block.axis.name), list(plan.block(block).kept)] = 1
    return stays[scores.layer, scores.axis, scores.index]


def rates(layout: Layout, plan: Plan) -> tuple[float, float]:
    """Share of parameters that goes: of the whole model, and of its decoder layers."""
    removed = plan.removed(layout)
    return removed / layout.parameters, removed / layout.layer_parameters


def _title(recipe: Recipe, layout: Layout, plan: Plan) -> str:
    total, layers = rates(layout, plan)
    return f"{Path(recipe.model.path).name}: {total:.1%} of the parameters removed ({layers:.1%} of the layers')"


def summary(recipe: Recipe, layout: Layout, plan: Plan, priors: Priors | None, report: Mapping[str, Any]) -> str:
    """The plan layer by layer, and the headline of the report, as text."""
    axes = [axis.name for axis in layout.architecture.axes]
    header = ["layer", *(f"{axis} kept" for axis in axes), "before", "after", "removed"]
    header += ["prior", *(f"prior {axis}" for axis in axes)] if priors else []
    rows = [header]
    for layer in layout.layers:
        kept = {name: plan.block(block) for name, block in layer.blocks.items()}
        after = sum(block.kept_cost(len(kept[name].kept)) for name, block in layer.blocks.items())
        row = [str(layer.index), *(f"{len(kept[axis].kept)} / {kept[axis].of}" for axis in axes)]
        row += [f"{layer.cost:,}", f"{after:,}", f"{1 - after / layer.cost:.1%}"]
        if priors:
            row += [_number(priors.layer[layer.index])]
            row += [_number(priors.blocks[axis][layer.index]) if axis in priors.blocks else "-" for axis in axes]
        rows.append(row)
    total, of_layers = rates(layout, plan)
    lines = [
        f"Model {recipe.model.path}, allocated by {recipe.allocate.use}, scored by {recipe.score.use}",
        "",
        *_aligned(rows),
        "",
        *_aligned([list(HEADER), *(list(row.cells()) for row in headline(report))]),
        "",
        f"Removed {plan.removed(layout):,} of the {plan.before - plan.target:,} parameters that were to go:",
        f"{total:.2%} of all parameters, {of_layers:.2%} of the layers' parameters.",
        f"Layers: {len(layout.layers)} before, {len(plan.kept_layers())} after.",
        *(f"Note: {note}" for note in plan.notes),
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4g}"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns as wide as their widest cell, flush right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
