"""The forms of a finished checkpoint: what a run and `hgsp export` share.

torch is imported where a model is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from hgsp_core.artifacts import BlockPlan, Plan
from hgsp_core.checkpoint.read import stored_dtype
from hgsp_core.errors import RecipeError
from hgsp_core.export.contract import Exporter, ExportJob
from hgsp_core.export.errors import ExportError
from hgsp_core.files.forms import PlanFile, Report
from hgsp_core.files.text import read_object
from hgsp_core.model.layout import Layout
from hgsp_core.runtime.directory import run_directory
from hgsp_core.runtime.measure import open_weights
from hgsp_core.runtime.monitor import Monitor, Progress
from hgsp_core.runtime.recipe import Use, parse_recipe
from hgsp_core.runtime.source import checkpoint_layout, model_directory

if TYPE_CHECKING:
    from hgsp_core.engine.weights import Weights

#: windows and tokens of the input that exporters compare logits on
PROBE = (2, 16)


def export_checkpoint(
    model: Path, exporter: str, settings: Sequence[str], output: Path, monitor: Monitor
) -> dict[str, list[str]]:
    """Export a checkpoint that was made earlier.

    Args:
        model: a run directory, or a Hugging Face directory, pruned or not; it is not changed.
        settings: `key=value` of the exporter's parameters.
        output: must not exist. Nothing of it is left where the export fails.

    Returns:
        exports: what was written; notes: what the user should know of it.

    Raises:
        HgspError: everything that a user can mend.
    """
    written = {"model": {"path": str(model)}, "export": [{"use": exporter, "with": {}}], "output": str(output)}
    recipe = parse_recipe(yaml.safe_dump(written), "hgsp export", [f"export.0.with.{setting}" for setting in settings])
    directory = model_directory(model)
    layout, dtype = checkpoint_layout(directory), stored_dtype(directory)
    plan = known_plan(model, layout)
    check_exportable(recipe.export, directory, layout)
    exporters, notes = [use.build(Exporter) for use in recipe.export], list[str]()
    with run_directory(output) as destination:
        with monitor.stage("Load"):
            weights = open_weights(directory, layout, dtype, recipe, monitor)
        with monitor.stage("Export") as progress:
            told = progress, notes.append, known_report(model)
            exports = export(exporters, directory, destination, plan, weights, *told, directory)
    places = publish(exporters, exports, output, monitor)
    return {"exports": [*(str(output / name) for name in exports), *places], "notes": notes}


def export(
    exporters: Sequence[Exporter[Any]],
    checkpoint: Path,
    destination: Path,
    plan: Plan,
    weights: Weights,
    progress: Progress,
    note: Callable[[str], None],
    report: Mapping[str, Any] = MappingProxyType({}),
    original: Path | None = None,
) -> list[str]:
    """Every form asked for, below `destination`; each exporter is given the logits that its output must reproduce.

    Args:
        weights: the checkpoint's.
        report, original: as in `ExportJob`.

    Returns:
        What was written, relative to `destination`.
    """
    from hgsp_core.engine.likelihood import logits

    tokens = np.arange(PROBE[0] * PROBE[1]).reshape(PROBE) % int(weights.layout.config["vocab_size"])
    answers = logits(weights, tokens)
    job = ExportJob(
        checkpoint, destination, plan, weights.layout, tokens, answers, weights.stays, progress, note, report, original
    )
    return [str(exporter(job).relative_to(destination)) for exporter in exporters]


def publish(exporters: Sequence[Exporter[Any]], written: Sequence[str], output: Path, monitor: Monitor) -> list[str]:
    """Publish the exports after the run is in place, so that a fault loses nothing. Returns the addresses.

    Raises:
        HgspError: an exporter's.
    """
    places: list[str] = []
    if not exporters:
        return places
    with monitor.stage("Publish"):
        for exporter, name in zip(exporters, written, strict=True):
            if place := exporter.publish(output / name):
                monitor.say(f"Published: {place}")
                places.append(place)
    return places


def check_exports(uses: Sequence[Use]) -> None:
    """No two exports write to the same folder. Raises RecipeError."""
    seen: set[tuple[str, Any]] = set()
    for index, use in enumerate(uses):
        target = (use.use, use.with_.get("directory"))
        if target in seen:
            raise RecipeError(f"export.{index}: '{use.use}' writes to the same folder twice. Remove one of them.")
        seen.add(target)


def check_exportable(uses: Sequence[Use], directory: Path, layout: Layout) -> None:
    """Exporters refuse models that they cannot hold: before anything is measured, and again for the plan.

    Args:
        directory: of the model to be pruned, or of the checkpoint.
        layout: of the model as it is now, or as a plan would leave it.

    Raises:
        HgspError: an exporter's.
    """
    for use in uses:
        use.build(Exporter).check(directory, layout)


def _file_of_run(model: Path, name: str) -> Path | None:
    """A file of the run that made a checkpoint; None where the checkpoint stands alone."""
    path = model / name
    return path if path.is_file() and not (model / "config.json").is_file() else None


def known_report(model: Path) -> Mapping[str, Any]:
    """report.json of the run that made the checkpoint; empty of a checkpoint that stands alone."""
    if (path := _file_of_run(model, "report.json")) is None:
        return {}
    try:
        report = read_object(path, Report)
        return report if report["before"] and report["after"] and report["recipe"] else {}
    except (ValueError, KeyError) as error:
        raise ExportError.bad_plan(path, error) from None


def known_plan(model: Path, layout: Layout) -> Plan:
    """The plan of the run that made the checkpoint; of a checkpoint that stands alone, the plan that keeps everything.

    Raises:
        ExportError: the plan.json of the run is for another model.
    """
    if (path := _file_of_run(model, "plan.json")) is None:
        return Plan.keep_all(layout)
    try:
        plan = _read_plan(read_object(path, PlanFile))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ExportError.bad_plan(path, error) from None
    kept = [{name: len(block.kept) for name, block in plan.layers[i].items() if block.kept} for i in plan.kept_layers()]
    if kept != [{name: block.units for name, block in layer.blocks.items()} for layer in layout.layers]:
        raise ExportError.other_plan(path)
    return plan


def _read_plan(data: Mapping[str, Any]) -> Plan:
    """plan.json without the original that `Plan.from_json` checks it against."""
    layers = tuple(
        {
            name: BlockPlan(block["of"], tuple(block["kept"]), tuple(map(tuple, block.get("heads", ()))))
            for name, block in layer.items()
            if name != "index"
        }
        for layer in data["layers"]
    )
    parameters = data["parameters"]
    return Plan(layers, parameters["before"], parameters["target"], tuple(data.get("notes", ())))
