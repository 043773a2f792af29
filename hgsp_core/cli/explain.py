"""A method or an architecture in words, from what its plugin declares: nothing is imported for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from hgsp_core.model.architecture import Architecture
from hgsp_core.plugin.registry import Entry
from hgsp_core.run.recipe import STAGES

_Schema = Mapping[str, Any]

_TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
#: kinds of which a recipe chains several
_LISTS = ("normalizer", "evaluator", "exporter")
_REQUIRED = "required"


@dataclass(frozen=True)
class Parameter:
    """One key under `with`, nested ones with dots."""

    key: str
    values: str
    default: Any
    description: str


def explain(entry: Entry, alone: bool) -> Iterator[str]:
    """Lines that tell what the entry is, what it takes and how a recipe names it.

    Args:
        alone: nobody else has a method of that name and kind, so the bare name will do.
    """
    yield f"{entry.name}: {entry.kind} of {entry.distribution}"
    yield f"  {entry.method.summary}"
    if isinstance(entry.method, Architecture):
        yield from _axes(entry.method)
        return
    found = list(parameters(entry.method.params.model_json_schema()))
    yield ""
    yield "parameters" if found else "parameters: none"
    for p in found:
        default = p.default if p.default == _REQUIRED else f"default {_scalar(p.default)}"
        yield f"  {p.key}: {p.values}; {default}"
        if p.description:
            yield f"      {p.description}"
    yield ""
    yield "in a recipe"
    name = entry.name if alone else f"{entry.distribution}/{entry.name}"
    yield from (f"  {line}" for line in example(entry.kind, name, found).splitlines())


def _axes(architecture: Architecture) -> Iterator[str]:
    yield ""
    yield f'for every model with "model_type": "{architecture.model_type}" in its config.json; prunes'
    for axis in architecture.axes:
        linears = ", ".join(s.module for s in axis.slices)
        yield f"  {axis.name}: {axis.units} units of {linears}"


def parameters(schema: _Schema, prefix: str = "", root: _Schema | None = None) -> Iterator[Parameter]:
    """Every parameter of a pydantic model's JSON schema, those of parts with a dot."""
    root = root or schema
    for key, given in schema.get("properties", {}).items():
        inner = _resolved(given, root)
        if "properties" in inner:
            yield from parameters(inner, f"{prefix}{key}.", root)
        else:
            required = key in schema.get("required", ())
            default = _REQUIRED if required else given.get("default")
            yield Parameter(prefix + key, _values(inner, root), default, given.get("description", ""))


def _resolved(schema: _Schema, root: _Schema) -> _Schema:
    """Follow `$ref` into `$defs`."""
    if "$ref" in schema:
        return root["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def _values(schema: _Schema, root: _Schema) -> str:
    """Which values are allowed, in words."""
    schema = _resolved(schema, root)
    if "anyOf" in schema:
        return " or ".join(_values(choice, root) for choice in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(map(_scalar, schema["enum"]))
    if "const" in schema:
        return _scalar(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_values(schema.get('items', {}), root)}"
    bounds = [f"{words} {schema[bound]}" for bound, words in _BOUNDS.items() if bound in schema]
    return ", ".join([_TYPES.get(schema.get("type", ""), "any value"), *bounds])


def _scalar(value: Any) -> str:
    """The value as a recipe writes it."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def example(kind: str, name: str, found: list[Parameter]) -> str:
    """Recipe lines that use the method, with the parameters that have a plain default written out."""
    with_ = {
        p.key: "..." if p.default == _REQUIRED else p.default
        for p in found
        if "." not in p.key and p.default is not None and not isinstance(p.default, Mapping)
    }
    given = {"with": with_} if with_ else {}
    if kind == "dataset":
        return yaml.safe_dump({"calibrate": {"dataset": name, **given}}, sort_keys=False)
    use = {"use": name, **given}
    stage = next(stage for stage, there in STAGES.items() if there == kind)
    return yaml.safe_dump({stage: [use] if kind in _LISTS else use}, sort_keys=False)
