"""Entry points -> methods by kind and name.

Every plugin is loaded on its own: one that fails to import, misspells a hook or returns nonsense is recorded in `broken` and
shown by `hgsp plugins`; it never takes the others with it. Two providers of a name only matter to a recipe that uses the bare
name; `distribution/name` picks one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any, TypeVar

import pluggy
import yaml

from hgsp_core.errors import did_you_mean
from hgsp_core.model.architecture import API, Architecture
from hgsp_core.plugin import hookspecs
from hgsp_core.plugin.deprecations import adopted
from hgsp_core.plugin.errors import PluginError
from hgsp_core.plugin.method import HOOKS, Implementation, Method, Params

GROUP = "hgsp"


@dataclass(frozen=True)
class Entry:
    """A method (or architecture) and the distribution that provides it."""

    kind: str
    distribution: str
    method: Method | Architecture

    @property
    def name(self) -> str:
        """What a recipe calls it."""
        return self.method.name

    @property
    def declared(self) -> Method:
        """The method; of an architecture there is none. Raises TypeError."""
        if not isinstance(self.method, Method):
            raise TypeError(f"{self.name} is data of an architecture, not a method.")
        return self.method


@dataclass(frozen=True)
class Broken:
    """A plugin that is installed and cannot be used, and why."""

    distribution: str
    reason: str


@dataclass
class Registry:
    """The methods and architectures of a process, and the plugins that are broken."""

    entries: list[Entry] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Entry]:
        """All of one kind, in the order of their plugins."""
        return [entry for entry in self.entries if entry.kind == kind]

    def find(self, kind: str, name: str) -> Entry:
        """The entry that a recipe means by `name` or `distribution/name`.

        Raises:
            PluginError: nobody provides it (says which known plugin would, or which broken one may), or two do.
        """
        distribution, _, bare = name.rpartition("/")
        named = [e for e in self.of_kind(kind) if e.name == bare]
        found = [e for e in named if not distribution or same_name(e.distribution, distribution)]
        if len(found) > 1:
            raise PluginError.ambiguous(kind, bare, [e.distribution for e in found])
        if found:
            return found[0]
        for known in catalogue():
            if bare in known["provides"].get(kind, ()) and not self.has(known["distribution"]):
                raise PluginError.not_installed(kind, bare, known["distribution"])
        hint = did_you_mean(bare, [e.name for e in self.of_kind(kind)])
        raise PluginError.unknown(kind, name, hint, [(b.distribution, b.reason) for b in self.broken])

    def has(self, distribution: str) -> bool:
        """Whether that distribution is installed, broken or not."""
        there = [entry.distribution for entry in self.entries] + [broken.distribution for broken in self.broken]
        return any(same_name(name, distribution) for name in there)


def same_name(a: str, b: str) -> bool:
    """Whether two names are spellings of one distribution (PEP 503)."""
    return a.lower().replace("_", "-") == b.lower().replace("_", "-")


@cache
def installed() -> Registry:
    """The plugins of this process, loaded once."""
    return load_plugins(_entry_points())


def _entry_points() -> Iterator[tuple[str, EntryPoint]]:
    seen = set()
    for distribution in distributions():
        name = distribution.metadata["Name"] or "unnamed"
        if name.lower() in seen:  # a second copy further down sys.path is shadowed, as for any import
            continue
        points = [p for p in distribution.entry_points if p.group == GROUP]
        if points:
            seen.add(name.lower())
        for point in points:
            yield name, point


def load_plugins(points: Iterator[tuple[str, EntryPoint]]) -> Registry:
    """Load each entry point guarded. Nothing that a plugin does wrong escapes from here, except KeyboardInterrupt."""
    result = Registry()
    for distribution, point in points:
        try:
            result.entries += _entries_of(distribution, point.load())
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; it is recorded and shown
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            result.broken.append(Broken(distribution, reason))
    return result


def _entries_of(distribution: str, plugin: object) -> list[Entry]:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name in dir(plugin):
        marked = manager.parse_hookimpl_opts(plugin, name) is not None
        if (marked or name.startswith("hgsp_")) and callable(getattr(plugin, name)):
            if name not in HOOKS.values():
                raise PluginError.misspelled_hook(name, did_you_mean(name, HOOKS.values()))
            if not marked:
                raise PluginError.unmarked_hook(name)
    manager.register(plugin, distribution)
    entries = []
    for kind, hook in HOOKS.items():
        for provided in getattr(manager.hook, hook)():
            entries += [Entry(kind, distribution, _checked(kind, hook, method)) for method in provided]
    if not entries:
        raise PluginError.provides_nothing()
    seen = set()
    for entry in entries:
        if (entry.kind, entry.name) in seen:
            raise PluginError.doubled(entry.kind, entry.name)
        seen.add((entry.kind, entry.name))
    return entries


def _checked(kind: str, hook: str, method: object) -> Method | Architecture:
    wanted = Architecture if kind == "architecture" else Method
    if not isinstance(method, wanted):
        raise PluginError.wrong_type(hook, wanted.__name__, type(method).__name__)
    if method.api != API:
        raise PluginError.other_api(method.name, method.api, API)
    if "/" in method.name:
        raise PluginError.slash(method.name)
    return method


C = TypeVar("C", bound=Implementation[Any])


def implementation(contract: type[C], entry: Entry) -> type[C]:
    """The class behind a method, imported now.

    Args:
        contract: of the entry's kind.

    Raises:
        PluginError: it cannot be imported, or does not hold its contract; names the plugin.
    """
    target = entry.declared.target
    module, _, attribute = target.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:
        raise PluginError.target(entry.distribution, entry.name, target, error) from error
    if not (isinstance(found, type) and issubclass(found, contract)):
        found = adopted(found, contract)
    if missing := found and sorted(found.__abstractmethods__):
        raise PluginError.incomplete(entry.distribution, entry.name, target, contract.__name__, missing)
    if not found:
        raise PluginError.no_class(entry.distribution, entry.name, target, contract.__name__)
    return found


def build(contract: type[C], name: str, params: Mapping[str, Any] | Params | None = None) -> C:
    """The implementation that a recipe names, made with its params (a mapping or a ready Params object)."""
    entry = installed().find(contract.kind, name)
    given = entry.declared.params
    ready = params if isinstance(params, given) else given(**dict(params or {}))
    return implementation(contract, entry)(ready)


def architecture(model_type: str) -> Architecture:
    """The architecture data for a config's `model_type`."""
    found = installed().find("architecture", model_type).method
    assert isinstance(found, Architecture)  # `_checked` lets nothing else in
    return found


@cache
def catalogue() -> list[dict[str, Any]]:
    """Plugins known to this version, installed or not (`registry.yaml`)."""
    return yaml.safe_load(_catalogue_file().read_text(encoding="utf-8"))["plugins"]


def _catalogue_file() -> Path:
    """The wheel has it inside the package, a checkout (an editable install, too) at its root."""
    package = Path(__file__).parents[1]
    packaged = package / "registry.yaml"
    return packaged if packaged.is_file() else package.parent / "registry.yaml"
