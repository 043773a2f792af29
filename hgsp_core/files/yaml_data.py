"""YAML -> plain data: mappings with text for keys, lists, texts, numbers; nothing else, and nothing that explodes."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import ConstructorError

from hgsp_core.errors import shown

#: values and levels; aliases count as often as they are used
_MOST_VALUES, _DEEPEST = 100_000, 50


class YamlError(ValueError):
    """What is wrong, in one line, and where: a line and column, a key, or nothing that is known."""

    def __init__(self, problem: str, place: str = ""):
        super().__init__(problem)
        self.place = place


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that is given twice: one of the two would be lost without a word.

    A date stays the text that it is written as.
    """

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            return super().construct_mapping(node, deep)  # type: ignore[arg-type]  # which refuses it
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(problem="a key must be text", problem_mark=key.start_mark)
            if key.value in seen:
                problem = f"the key {shown(key.value)} is given twice"
                raise ConstructorError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST_VALUES // 10:
            raise ConstructorError(problem="merge keys (<<) make it too large", problem_mark=node.start_mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            tag = node.tag.rpartition(":")[2]
            value = shown(node.value) if isinstance(node, yaml.ScalarNode) else "this"
            raise ConstructorError(problem=f"{value} is no {tag}", problem_mark=node.start_mark) from None


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """The data in `text`. Raises YamlError."""
    try:
        data = yaml.load(text, _Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{ord(text[error.position]):04X}"
        raise YamlError(f"the character {character} is not allowed in YAML", f"line {line}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise YamlError(problem if len(problem) < 200 else shown(problem), place) from None
    except RecursionError:
        raise YamlError("its values are nested too deeply") from None
    return _checked(data, "", 0, [0])


def in_yaml(value: object) -> str:
    """A value on one line, as a recipe writes it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def _checked(value: Any, place: str, depth: int, seen: list[int]) -> Any:
    """The value; what aliases repeat is a value of its own at each place, so that a setting changes one of them.

    Raises YamlError where the data is not plain, or is endless: what refers to itself is found by its depth.
    """
    seen[0] += 1
    if depth > _DEEPEST or seen[0] > _MOST_VALUES:
        raise YamlError("it is nested too deeply, or aliases make it too large")
    if isinstance(value, dict):
        copy = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise YamlError(f"the key {shown(key)} is {_kind(key)}, not text; put it in quotes", place)
            _checked(key, place, depth, seen)
            copy[key] = _checked(item, f"{place}.{key}" if place else key, depth + 1, seen)
        return copy
    if isinstance(value, list):
        start = f"{place}." if place else ""
        return [_checked(item, f"{start}{index}", depth + 1, seen) for index, item in enumerate(value)]
    if isinstance(value, str):
        if "\0" in value or value.encode(errors="ignore").decode() != value:  # half of a pair of surrogates
            raise YamlError("the text contains invalid characters", place)
    elif isinstance(value, int):
        if abs(value) >= 2**63:
            raise YamlError("the number is too large", place)
    elif not (value is None or isinstance(value, float)):
        raise YamlError(f"{shown(value)} is {_kind(value)}, which is not supported here", place)
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"of type {type(value).__name__}"
