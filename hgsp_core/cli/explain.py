"""A method or an architecture, for people and for programs, from what its plugin declares: nothing is imported for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hgsp_core.files.yaml_data import in_yaml
from hgsp_core.model.architecture import Architecture
from hgsp_core.plugin.registry import Entry
from hgsp_core.runtime.recipe import STAGES

_Schema = Mapping[str, Any]

_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
#: kinds that a recipe chains
_LISTS = ("normalizer", "evaluator", "exporter")


@dataclass(frozen=True)
class Parameter:
    """One key under `with`, nested ones with dots."""

    key: str
    values: str
    required: bool
    default: Any
    description: str


@dataclass(frozen=True)
class Axis:
    """What an architecture prunes: units, counted by a key of config.json, of these linears."""

    name: str
    units: str
    linears: tuple[str, ...]


@dataclass(frozen=True)
class Description:
    """A method or an architecture; `hgsp plugins show NAME --json` prints these fields.

    parameters, schema, recipe   of a method: the keys under `with`, their JSON schema, and lines for a recipe
    axes                         of an architecture
    """

    kind: str
    name: str
    distribution: str
    summary: str
    parameters: tuple[Parameter, ...] = ()
    schema: _Schema | None = None
    recipe: str | None = None
    axes: tuple[Axis, ...] = ()


def describe(entry: Entry, alone: bool) -> Description:
    """The description of an entry.

    Args:
        entry: of the registry.
        alone: no other plugin has a method of that name and kind, so the bare name is enough.
    """
    method = entry.method
    own = (entry.kind, entry.name, entry.distribution, method.summary)
    if isinstance(method, Architecture):
        axes = tuple(Axis(a.name, a.units, tuple(dict.fromkeys(s.module for s in a.slices))) for a in method.axes)
        return Description(*own, axes=axes)
    schema = method.params.model_json_schema()
    found = tuple(parameters(schema))
    name = entry.name if alone else f"{entry.distribution}/{entry.name}"
    return Description(*own, found, schema, example(entry.kind, name, found))


def in_words(found: Description) -> Iterator[str]:
    """Lines: what the entry is, its parameters, and its use in a recipe."""
    yield f"{found.name}: {found.kind} of {found.distribution}"
    yield f"  {found.summary}"
    yield ""
    if found.recipe is None:
        yield f'for every model with "model_type": "{found.name}" in its config.json; prunes'
        for axis in found.axes:
            yield f"  {axis.name}: {axis.units} units of {', '.join(axis.linears)}"
        return
    yield "parameters" if found.parameters else "parameters: none"
    for p in found.parameters:
        yield f"  {p.key}: {p.values}; {'required' if p.required else f'default {in_yaml(p.default)}'}"
        if p.description:
            yield f"      {p.description}"
    yield ""
    yield "in a recipe"
    yield from (f"  {line}" for line in found.recipe.splitlines())


def parameters(schema: _Schema, prefix: str = "", root: _Schema | None = None) -> Iterator[Parameter]:
    """Every parameter of a pydantic model's JSON schema, those of parts with a dot."""
    root = root or schema
    for key, given in schema.get("properties", {}).items():
        inner = _resolved(given, root)
        if "properties" in inner:
            yield from parameters(inner, f"{prefix}{key}.", root)
        else:
            required = key in schema.get("required", ())
            values, description = _values(inner, root), given.get("description", "")
            yield Parameter(prefix + key, values, required, given.get("default"), description)


def _resolved(schema: _Schema, root: _Schema) -> _Schema:
    return root["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _values(schema: _Schema, root: _Schema) -> str:
    """Which values are allowed, in words."""
    schema = _resolved(schema, root)
    if "anyOf" in schema:
        return " or ".join(_values(choice, root) for choice in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(map(in_yaml, schema["enum"]))
    if "const" in schema:
        return in_yaml(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_values(schema.get('items', {}), root)}"
    bounds = [f"{words} {schema[bound]}" for bound, words in _BOUNDS.items() if bound in schema]
    return ", ".join([_TYPES.get(schema.get("type", ""), "any value"), *bounds])


def example(kind: str, name: str, found: Sequence[Parameter]) -> str:
    """Recipe lines that use the method, with the parameters that have a plain default written out."""
    with_ = {
        p.key: "..." if p.required else p.default
        for p in found
        if "." not in p.key and (p.required or (p.default is not None and not isinstance(p.default, Mapping)))
    }
    given = {"with": with_} if with_ else {}
    if kind == "dataset":
        return yaml.safe_dump({"calibrate": {"dataset": name, **given}}, sort_keys=False)
    use = {"use": name, **given}
    stage = next(stage for stage, there in STAGES.items() if there == kind)
    return yaml.safe_dump({stage: [use] if kind in _LISTS else use}, sort_keys=False)
