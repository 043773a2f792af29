"""What the runs of a grid have in common: the tokens, the statistics and the original's metrics, measured once for all of them.

Runs of one model, dtype and calibration form a group. What all of a group's methods ask for is measured in one sweep
over the layers, before any run of the group starts; each run then finds it in the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hgsp_core.allocate.run import methods_of
from hgsp_core.data.calibrate import calibrate, calibration_inputs
from hgsp_core.data.run import calibration_text, calibration_texts, mixed
from hgsp_core.evaluate.run import check_evaluable, evaluate_source, open_evaluators
from hgsp_core.export.contract import Exporter
from hgsp_core.export.run import check_exports
from hgsp_core.recover.contract import Recoverer
from hgsp_core.runtime.measure import measure, statistics_inputs
from hgsp_core.runtime.monitor import Monitor
from hgsp_core.runtime.recipe import Recipe
from hgsp_core.runtime.source import locate, open_model
from hgsp_core.runtime.store import Store
from hgsp_core.sweeps.cells import Cell

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Runs that measure the same model on the same tokens."""

    name: str
    cells: tuple[Cell, ...]

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        return tuple(cell.recipe for cell in self.cells)


def groups_of(cells: Iterable[Cell]) -> list[Group]:
    """The groups, in the order of their first cells."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        part, model = cell.recipe.calibrate, cell.recipe.model
        same = model.model_dump(exclude={"weights"}), part.model_dump(exclude={"batch_size"})
        found.setdefault(json.dumps(same, sort_keys=True), []).append(cell)
    return [Group(f"group {i + 1} of {len(found)}", tuple(cells)) for i, cells in enumerate(found.values())]


def check(cells: Sequence[Cell]) -> None:
    """What can be known before anything starts: models and texts are there, methods load, exports do not meet.

    Raises HgspError.
    """
    recipes = [cell.recipe for cell in cells]
    sources = {repr(part): open_model(part) for part in _distinct(recipe.model for recipe in recipes)}
    for part in _distinct(recipe.calibrate for recipe in recipes):
        calibration_texts(part)
    for uses in _distinct(recipe.evaluate for recipe in recipes):
        evaluators = open_evaluators(uses)
        for model in _distinct(recipe.model for recipe in recipes if recipe.evaluate == uses):
            check_evaluable(evaluators, model)
    for uses in _distinct(recipe.export for recipe in recipes):
        check_exports(uses)
        for use in uses:
            use.build(Exporter)
    alike = {"output": "", "evaluate": (), "export": ()}
    for recipe in _distinct(recipe.model_copy(update=alike) for recipe in recipes):
        methods_of(recipe, sources[repr(recipe.model)].layout)
        if recipe.recover:
            recipe.recover.build(Recoverer).check(locate(recipe.model))


def _distinct(values: Iterable[T]) -> list[T]:
    """Without repeats; recipes hold mappings and cannot be hashed."""
    return list({repr(value): value for value in values}.values())


def prepare(recipes: Sequence[Recipe], monitor: Monitor, store: Store) -> None:
    """Measure what the recipes of one group ask for, together, and put it into the store.

    What depends on a run's own plan (later iterative steps, repairs) is left to the run.
    """
    first = recipes[0]
    with monitor.stage("Read model"):
        source = open_model(first.model)
    methods = [methods_of(recipe, source.layout) for recipe in recipes]
    calibration = None
    if any(m.needs_tokens for m in methods):
        texts = calibration_texts(first.calibrate)
        with monitor.stage("Calibrate"):
            calibration = calibrate(first.calibrate, texts, source, store, {})
    collectors = {c.key: c for m in methods for c in m.collectors}
    measure(first, source, calibration, list(collectors.values()), monitor, store, {})
    for recipe in {repr((recipe.evaluate, recipe.device)): recipe for recipe in recipes}.values():
        evaluators = open_evaluators(recipe.evaluate)
        kept = tuple((name, evaluator) for name, evaluator in evaluators.alone if evaluator.inputs() is not None)
        evaluate_source(type(evaluators)(kept, ()), source, recipe, monitor, store)


@dataclass(frozen=True)
class Need:
    """Artifacts of one kind that a grid needs: how many, and how many of them the store has already."""

    needed: int
    stored: int


def needs(groups: Sequence[Group], store: Store) -> dict[str, Need]:
    """What is to be measured before the runs: calibrations, sweeps over a model's layers, and the statistics that they give.

    A statistic whose tokens are not in the store yet is not either.
    """
    found: dict[str, dict[str, bool]] = {"calibrations": {}, "sweeps": {}, "statistics": {}}
    for group in groups:
        part = group.recipes[0].calibrate
        source = open_model(group.recipes[0].model)
        methods = [methods_of(recipe, source.layout) for recipe in group.recipes]
        tokens = None
        if any(m.needs_tokens for m in methods):
            texts, drawn = calibration_texts(part), []
            for text in texts:
                inputs = calibration_inputs(part, text, calibration_text(text, part), source)
                kept = store.get("calibration", inputs)
                found["calibrations"][str(store.path("calibration", inputs))] = kept is not None
                drawn += [kept["tokens"]] if kept else []
            there = len(drawn) == len(texts)
            tokens = mixed(texts, drawn, part.seed).sha256 if there else f"of {group.name}"
        measured = []
        for collector in {c.key: c for m in methods for c in m.collectors}.values():
            path = store.path("statistics", statistics_inputs(source, tokens, collector, None))
            found["statistics"][str(path)] = path.is_file()
            measured.append(path.is_file())
        if measured:
            found["sweeps"][group.name] = all(measured)
    return {kind: Need(len(paths), sum(paths.values())) for kind, paths in found.items()}
