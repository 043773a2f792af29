"""A grid file -> its cells: one recipe for every combination of values, all checked before anything starts."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hgsp_core.errors import RecipeError
from hgsp_core.files.paths import expanded
from hgsp_core.report.runs import short_names
from hgsp_core.runtime.recipe import Recipe, assign, explain, parse_mapping, read_text, recipe_keys, recipe_of, resolved
from hgsp_core.sweeps.errors import GridError

#: a run's name is a directory; longer ones are cut and told apart by a hash
_LONGEST = 120


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Variant(_Part):
    """Settings that belong together, under a name."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$", max_length=60, description="part of the run's name")
    set_: dict[str, Any] = Field(alias="set", description="dotted recipe key -> value; {} = the unchanged base")


class GridFile(_Part):
    """The file of `hgsp sweep`."""

    version: Literal[1] = Field(1, description="version of the format")
    base: str | dict[str, Any] = Field(description="base recipe of all runs: a path relative to this file, or inline")
    variants: dict[str, tuple[Variant, ...]] = Field({}, description="axis -> variants: named sets of settings")
    grid: dict[str, tuple[Any, ...]] = Field({}, description="dotted recipe key -> values")
    output: str = Field(min_length=1, description="directory of the sweep; an existing sweep is resumed")

    @field_validator("variants", "grid")
    @classmethod
    def _values_on_every_axis(cls, axes: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for axis, values in axes.items():
            if not values:
                raise ValueError(f"'{axis}' has no values")
        return axes


#: keys that no recipe has: a file with one of them is a sweep
_OWN_KEYS = GridFile.model_fields.keys() - Recipe.model_fields.keys()


@dataclass(frozen=True)
class Choice:
    """One value of an axis: what it is called in a run's name, and the recipe keys that it sets."""

    label: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Grid:
    """All runs, in the order of the file: the last axis changes fastest. `text` is the file with its base written out."""

    output: Path
    cells: tuple[Cell, ...]
    text: str


def load_grid(path: Path, output: Path | None = None) -> Grid:
    """Read the file and check every run's recipe. `output` replaces the file's.

    Raises:
        GridError, RecipeError, PluginError: the first fault, with the file, the run and the key.
    """
    data = parse_mapping(read_text(path, "sweep"), str(path))
    if data is None:
        raise GridError.not_a_mapping(str(path))
    return grid_of(data, path, output)


def is_sweep(data: Mapping[str, Any]) -> bool:
    """Whether a file with these keys is a sweep, not a recipe."""
    return not _OWN_KEYS.isdisjoint(data)


def grid_of(data: Mapping[str, Any], path: Path, output: Path | None = None) -> Grid:
    """The checked grid of a mapping of a sweep's keys, which `path` holds. Raises what `load_grid` does."""
    source = str(path)
    try:
        file = GridFile.model_validate(data)
    except ValidationError as error:
        raise RecipeError(explain(error, source, GridFile)) from None
    base = _base(file.base, path)
    axes = list(_axes(file, source))
    if not axes:
        raise GridError.nothing_varies(source)
    directory = output or expanded(file.output)
    cells = tuple(_cells(base, axes, directory, source))
    seen: dict[str, str] = {}
    for cell in cells:
        recipe = json.dumps(resolved(cell.recipe).model_dump(mode="json", exclude={"output"}), sort_keys=True)
        if recipe in seen:
            raise GridError.same_runs(source, seen[recipe], cell.name)
        seen[recipe] = cell.name
    whole = {**file.model_dump(mode="json", by_alias=True), "base": base}
    return Grid(directory, cells, yaml.safe_dump(whole, sort_keys=False, allow_unicode=True))


def _base(given: str | dict[str, Any], path: Path) -> dict[str, Any]:
    """The base recipe's keys, not checked yet: what is missing may be on an axis."""
    if isinstance(given, dict):
        return given
    file = path.parent / expanded(given)
    return recipe_keys(read_text(file, "recipe"), str(file))


def _axes(file: GridFile, source: str) -> Iterator[list[Choice]]:
    """One list of choices for each axis. Raises GridError where two axes set one key, or a key is none of a recipe."""
    owners: dict[str, str] = {}

    def own(key: str, place: str) -> None:
        first = key.split(".")[0]
        if first == "output":
            raise GridError.not_for_grids(source, place, key)
        if first not in Recipe.model_fields or not all(key.split(".")):
            raise GridError.unknown_key(source, place, key, Recipe.model_fields)
        if owners.setdefault(key, place) != place:
            raise GridError.set_twice(source, key, owners[key], place)

    for axis, variants in file.variants.items():
        names = [variant.name for variant in variants]
        for name in names:
            if names.count(name) > 1:
                raise GridError.named_twice(source, axis, name)
        for variant in variants:
            for key in variant.set_:
                own(key, f"variants.{axis}")
        yield [Choice(variant.name, variant.set_) for variant in variants]
    short = short_names(file.grid)
    for key, values in file.grid.items():
        own(key, "grid")
        labels = _labels(short[key], values)
        yield [Choice(label, {key: value}) for label, value in zip(labels, values, strict=True)]


def _labels(key: str, values: Sequence[Any]) -> list[str]:
    """`ratio-0.2`; texts and methods, which say enough alone, without the key. Numbered where two are equal."""
    spoken = all(isinstance(value, str) or _methods(value) for value in values)
    labels = [_plain(value) if spoken else f"{key}-{_plain(value)}" for value in values]
    return labels if len(set(labels)) == len(labels) else [f"{label}-{i + 1}" for i, label in enumerate(labels)]


def _methods(value: Any) -> list[str]:
    """Names of the methods in `{use: x}` or in a list of such."""
    items = value if isinstance(value, list) else [value]
    named = [item["use"] for item in items if isinstance(item, dict) and isinstance(item.get("use"), str)]
    return named if len(named) == len(items) else []


def _plain(value: Any) -> str:
    """The value as part of a directory's name."""
    methods = _methods(value)
    text = "+".join(methods) if methods else value if isinstance(value, str) else json.dumps(value, default=str)
    text = "none" if value in (None, []) else text.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-.")[:40] or "empty"


def _cells(base: Mapping[str, Any], axes: Sequence[Sequence[Choice]], directory: Path, source: str) -> Iterator[Cell]:
    for choices in itertools.product(*axes):
        name = "_".join(choice.label for choice in choices)
        if len(name) > _LONGEST:
            name = f"{name[:_LONGEST]}-{sha256(name.encode()).hexdigest()[:8]}"
        place = f"{source}: run '{name}'"
        data = copy.deepcopy(dict(base))
        settings = {key: value for choice in choices for key, value in choice.settings.items()}
        for key in sorted(settings, key=lambda key: key.count(".")):  # a part before the keys inside it
            assign(data, key.split("."), copy.deepcopy(settings[key]), f"{place}: {key}")
        data["output"] = str(directory / "runs" / name)
        yield Cell(name, recipe_of(data, place))
