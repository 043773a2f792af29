"""Custom task files: Python in their YAML is found before lm-eval reads it, which would run it.

lm-eval runs `!function` and `class` of task files, metrics that it does not have (as programs of the hub), and Jinja templates
without a sandbox.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]  # either will do

from hgsp_core.evaluate.errors import EvaluationError


class _Code(Exception):
    """A tag that is not YAML's own."""


class _Loader(_SafeLoader):
    """The parser that lm-eval uses, where it is there."""


def _refuse(loader: _Loader, node: yaml.Node) -> None:
    raise _Code(f"{node.tag} {node.value}" if isinstance(node.value, str) else node.tag)


_Loader.add_constructor(None, _refuse)


def require_plain(evaluator: str, folder: Path) -> None:
    """Raises EvaluationError where a task file of the folder, or a file that one includes, names code."""
    import lm_eval.api.metrics
    from lm_eval.api.registry import METRIC_REGISTRY

    its_own = Path(lm_eval.__file__).parent.resolve()
    waiting, seen = sorted(folder.rglob("*.yaml")), set()
    while waiting:
        path = waiting.pop().resolve()
        if path in seen or path.is_relative_to(its_own):
            continue
        seen.add(path)
        try:
            task = yaml.load(path.read_bytes(), _Loader)
        except _Code as code:
            raise EvaluationError.task_code(evaluator, path, str(code)) from None
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            continue  # lm-eval passes such a file over
        if isinstance(task, Mapping) and "class" in task:
            raise EvaluationError.task_code(evaluator, path, f"class: {task['class']}")
        for part in _mappings(task, set()):
            for metric in _metrics(part):
                if metric.get("hf_evaluate") is True or metric.get("metric") not in METRIC_REGISTRY:
                    told = f"the metric {metric.get('metric')}, which is fetched as a program"
                    raise EvaluationError.task_code(evaluator, path, told)
            included = part.get("include", ())
            waiting += [path.parent / str(name) for name in (included if isinstance(included, list) else [included])]


def _metrics(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    found = part.get("metric_list")
    yield from (item for item in found if isinstance(item, Mapping)) if isinstance(found, list) else ()


def _mappings(value: Any, seen: set[int]) -> Iterator[Mapping[str, Any]]:
    """Every mapping in it, each once."""
    if id(value) in seen:
        return
    if isinstance(value, Mapping | list):
        seen.add(id(value))
    if isinstance(value, Mapping):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _mappings(item, seen)


@contextmanager
def sandboxed() -> Iterator[None]:
    """Templates of tasks see their document, but not Python objects."""
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    own = utils.env
    keep = own.keep_trailing_newline
    utils.env = SandboxedEnvironment(loader=own.loader, undefined=own.undefined, keep_trailing_newline=keep)
    utils.env.filters.update(own.filters)
    try:
        yield
    finally:
        utils.env = own
