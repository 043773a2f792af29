"""All that an installed plugin must hold, by the name of its distribution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution
from typing import Literal
from unittest import SkipTest

from hgsp_core import Architecture
from hgsp_core.errors import did_you_mean
from hgsp_core.plugin import registry
from hgsp_core.plugin.errors import PluginError
from hgsp_core.testing.architecture import architecture_checks
from hgsp_core.testing.check import Check, Table, checks_of
from hgsp_core.testing.method import method_checks, require_light
from hgsp_core.testing.model import random_model, tiny_config


@dataclass(frozen=True)
class Result:
    """The outcome of one check: of what, which one, and where it did not pass, why."""

    subject: str
    check: str
    outcome: Literal["passed", "failed", "not run"]
    reason: str = ""


def check_distribution(name: str) -> list[Result]:
    """Run the conformance kit over every method and architecture of an installed plugin, with default parameters.

    Architectures are tried on tiny random models of their family, with and without the biases that it can have.

    Raises:
        PluginError: no such distribution is installed, or it is no plugin of hgsp.
    """
    return [_result(subject, check) for subject, check in _checks(name)]


def _checks(name: str) -> Iterator[tuple[str, Check]]:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        there = registry.installed()
        known = [x.distribution for x in there.entries] + [x.distribution for x in there.broken]
        raise PluginError(f"No distribution '{name}' is installed.{did_you_mean(name, known)}") from None
    points = [point for point in found.entry_points if point.group == registry.GROUP]
    if not points:
        raise PluginError(f"'{name}' is installed, but is no plugin: no entry point in the group '{registry.GROUP}'.")
    for point in points:
        loaded = registry.load_plugins(iter([(name, point)]))
        table: Table = {plugin_loads: (), importing_the_plugin_brings_no_torch: (plugin_loads,)}
        yield from ((f"plugin {point.name}", check) for check in checks_of(table, (point, loaded)))
        for entry in loaded.entries:
            if isinstance(entry.method, Architecture):
                yield from _architecture_checks(entry.method)
            else:
                for check in method_checks(entry.method, entry.kind):
                    yield f"{entry.kind} {entry.name}", check


def _architecture_checks(architecture: Architecture) -> Iterator[tuple[str, Check]]:
    for check in architecture_checks(architecture):
        yield f"architecture {architecture.name}", check
    for check in architecture_checks(architecture, lambda: random_model(tiny_config(architecture, biases=True))):
        yield f"architecture {architecture.name}, with biases", check


def plugin_loads(subject: tuple[EntryPoint, registry.Registry]) -> None:
    """The entry point imports, and its hooks return methods or architectures."""
    _, loaded = subject
    if loaded.broken:
        raise PluginError(loaded.broken[0].reason)


def importing_the_plugin_brings_no_torch(subject: tuple[EntryPoint, registry.Registry]) -> None:
    """The entry point's module imports neither torch nor transformers."""
    point, _ = subject
    require_light(point.module)


def _result(subject: str, check: Check) -> Result:
    fault = check.fault
    if fault is None:
        return Result(subject, check.name, "passed")
    return Result(subject, check.name, "not run" if isinstance(fault, SkipTest) else "failed", str(fault))
