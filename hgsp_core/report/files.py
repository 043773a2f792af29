"""The files of a run that people and other programs read; docs/reports.md lists them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from hgsp_core.files.json_files import write_json
from hgsp_core.report import diagnosis
from hgsp_core.report.cost import COSTS
from hgsp_core.report.facts import RunFacts
from hgsp_core.report.outcome import analysis, comparison
from hgsp_core.report.png import write_png
from hgsp_core.report.run_charts import layer_charts, prior_chart, scale_chart
from hgsp_core.report.run_page import run_page
from hgsp_core.report.tables import HEADER, headline
from hgsp_core.report.texts import calibrated_on
from hgsp_core.runtime.recipe import resolved


def write_reports(directory: Path, facts: RunFacts, model: str, fingerprint: str) -> None:
    """Write every file of a run but the model; report.json comes last.

    Args:
        model, fingerprint: what the recipe calls the original, and its fingerprint.
    """
    layout, plan = facts.layout, facts.plan
    (directory / "recipe.yaml").write_text(resolved(facts.recipe).to_yaml(), encoding="utf-8")
    write_json(directory / "plan.json", plan.to_json(layout, model, fingerprint))
    write_unit_table(directory / "global_group_table.csv", facts)
    write_removed_units(directory / "groups_to_prune.csv", facts)
    (directory / "pruning_summary_by_layer.txt").write_text(summary(facts), encoding="utf-8")
    write_json(directory / "pruning_analysis.json", analysis(layout, plan))
    write_json(directory / "pruning_comparison.json", comparison(layout, plan))
    write_json(directory / diagnosis.FILE, facts.diagnosis)
    write_evaluation(directory / "evaluation_results.json", facts)
    if facts.priors is not None:
        write_json(directory / "layer_importance.json", facts.priors.to_json())
    write_pictures(directory, facts)
    (directory / "report.html").write_text(run_page(facts), encoding="utf-8")
    write_json(directory / "report.json", facts.report)


def write_pictures(directory: Path, facts: RunFacts) -> None:
    """Charts of the page as files of their own."""
    total, of_layers = facts.removed
    removed = f"{total:.1%} of the parameters removed ({of_layers:.1%} of the layers'); grey: removed, ×: block removed entirely"
    write_png(directory / "layers.png", layer_charts(facts), f"{facts.model}: {removed}")
    write_png(directory / "gradient_scale.png", [scale_chart(facts)], facts.model)
    if priors := prior_chart(facts):
        write_png(directory / "layer_importance.png", [priors], facts.model)


def write_unit_table(path: Path, facts: RunFacts) -> None:
    """One line per unit: layer, kind, index, importance, cost, score (lowest removed first), kept (1 or 0)."""
    columns = {**_columns(facts), "kept": facts.kept}
    _write_csv(path, columns, np.arange(len(facts.scores)))


def write_removed_units(path: Path, facts: RunFacts) -> None:
    """One line per removed unit, lowest score first: layer, kind, index, importance, cost, score."""
    order = np.argsort(facts.scores.score, kind="stable")
    _write_csv(path, _columns(facts), order[facts.kept[order] == 0])


def _columns(facts: RunFacts) -> dict[str, np.ndarray]:
    scores = facts.scores
    return {
        "layer": scores.layer,
        "kind": np.array(scores.axes)[scores.axis],
        "index": scores.index,
        "importance": scores.importance,
        "cost": scores.cost,
        "score": scores.score,
    }


def _write_csv(path: Path, columns: dict[str, np.ndarray], rows: np.ndarray) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(column[rows].tolist() for column in columns.values()), strict=True))


def write_evaluation(path: Path, facts: RunFacts) -> None:
    """What was measured on the model before and after, and how it was asked for; null where nothing was."""
    sides = {"before": facts.report["before"], "after": facts.report["after"]}
    measured = {side: {k: v for k, v in found.items() if k not in COSTS} or None for side, found in sides.items()}
    evaluate = [use.model_dump(mode="json") for use in facts.recipe.evaluate]
    write_json(path, {"evaluate": evaluate, **measured})


def summary(facts: RunFacts) -> str:
    """The plan layer by layer, and the headline of the report, as text."""
    plan, (header, rows) = facts.plan, facts.layer_table()
    total, of_layers = facts.removed
    lines = [
        f"Model {facts.recipe.model.path}, allocated by {facts.recipe.allocate.use}, scored by {facts.recipe.score.use}",
        "",
        *_aligned([header, *rows]),
        "",
        *_aligned([list(HEADER), *(list(row.cells()) for row in headline(facts.report))]),
        "",
        f"Removed {plan.removed(facts.layout):,} of the {plan.before - plan.target:,} parameters in the budget:",
        f"{total:.2%} of all parameters, {of_layers:.2%} of the layers' parameters.",
        f"Layers: {len(facts.layers)} before, {len(plan.kept_layers())} after.",
        *calibrated_on(facts.report),
        *(f"Note: {note}" for note in plan.notes),
        *(f"Finding ({f['severity']}): {f['title']}. See {diagnosis.FILE}." for f in facts.diagnosis["findings"]),
    ]
    return "\n".join(lines) + "\n"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns as wide as their widest cell, flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
