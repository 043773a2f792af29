"""Renamed flags, recipe keys and modules, and classes without contracts: declared only here.

An old name works until the version in which it is removed, and every use of it prints a warning that names the new one.
A test fails as soon as the package reaches that version while the entry is still here.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar

from hgsp_core.errors import FlagError, RecipeError


@dataclass(frozen=True)
class Renamed:
    """`old` -> `new`: a flag (`--num_examples`), or the place of a recipe key (`calibrate.nsamples`).

    values   the old name applies only with one of these values, as the flag now has another meaning; empty = any
    """

    old: str
    new: str
    since: str
    removed_in: str
    values: tuple[str, ...] = ()

    @property
    def is_flag(self) -> bool:
        """Whether it is one of the command line, not a recipe's key."""
        return self.old.startswith("--")

    @property
    def warning(self) -> str:
        """What a user is told."""
        given = f"{self.old} {'|'.join(self.values)}" if self.values else self.old
        return f"{given} is now {self.new}; the old name will be removed in hgsp-core {self.removed_in}."


RENAMED = (
    # the research scripts that `hgsp prune` replaces
    Renamed("--importance_samples", "--layer_importance_samples", "0.1", "1.0"),
    Renamed("--num_examples", "--head_importance_samples", "0.1", "1.0"),
    Renamed("--importance_method", "--layer_importance_method", "0.1", "1.0", values=("removal", "activation")),
    Renamed("--importance_config", "--layer_importance_config", "0.1", "1.0"),
    Renamed("--max_seq_len", "--taylor_seq_len", "0.1", "1.0"),
    Renamed("--alpha", "--importance_weight", "0.1", "1.0"),
    Renamed("--min_pruning_rate", "--layer_min_pruning_rate", "0.1", "1.0"),
    Renamed("--max_pruning_rate", "--layer_max_pruning_rate", "0.1", "1.0"),
    Renamed("--save_ckpt_log_name", "--output_name", "0.1", "1.0"),
    # recipes
    Renamed("allocate.with.same_sizes", "allocate.with.uniform", "0.1", "1.0"),
)

Warn = Callable[[str], None]


def current_flags(arguments: Sequence[str], known: Collection[str], warn: Warn) -> list[str]:
    """The arguments under their present names; `known` are the flags that the command has.

    Raises:
        FlagError: both names of a flag are given, with different values.
    """
    result: list[str] = []
    renamed: dict[str, tuple[Renamed, str]] = {}  # new name -> what it was called, and its value
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if not equals:
            value = next(iter(arguments[position + 1 :]), "")
        entry = next((r for r in RENAMED if r.old == name and r.new in known and value in (r.values or (value,))), None)
        if entry:
            warn(entry.warning)
            renamed[entry.new] = (entry, value)
        result.append(f"{entry.new if entry else name}{equals}{value if equals else ''}")
    for entry, value in renamed.values():
        for other in _values(arguments, entry.new):
            if other != value:
                raise FlagError.contradict((entry.old, value), (entry.new, other))
    return result


def _values(arguments: Sequence[str], flag: str) -> Iterator[str]:
    """Every value that the flag is given."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name == flag:
            yield value if equals else following


def current_keys(
    data: Mapping[str, Any], source: str, warn: Warn, renames: Sequence[Renamed] = RENAMED
) -> dict[str, Any]:
    """A recipe's mapping under its present keys; `source` is what messages call it.

    Raises:
        RecipeError: both names of a key are given, with different values.
    """
    result: dict[str, Any] = deepcopy(dict(data))
    for entry in renames:
        if not entry.is_flag and (found := _at(result, entry.old)):
            there = _at(result, entry.new)
            if there and there != found:
                fault = f"'{entry.new}' is given too, with another value."
                raise RecipeError.at(source, entry.old, fault, f"{entry.warning} Remove it.")
            warn(f"{source}: {entry.warning}")
            parent, _, key = entry.old.rpartition(".")
            del (_at(result, parent)[0] if parent else result)[key]
            node, (*parts, last) = result, entry.new.split(".")
            for part in parts:
                node[part] = node.get(part) or {}
                node = node[part]
            node[last] = found[0]
    return result


def _at(data: Any, key: str) -> list[Any]:
    """[value] of a dotted key, or [] where there is none."""
    for part in key.split("."):
        if not isinstance(data, Mapping) or part not in data:
            return []
        data = data[part]
    return [data]


_STAGES = ("score", "allocate", "repair", "recover", "evaluate", "export", "data")
_ENGINE = ("batches", "collectors", "layer", "likelihood", "loss", "memory", "parallel", "weights")
#: modules of 0.1 that a plugin may import -> where their names are now, all of them gone in 1.0
MOVED = {
    "hgsp_core.types": (
        *(f"hgsp_core.{stage}.contract" for stage in _STAGES),
        "hgsp_core.plugin.method",
        "hgsp_core.model.architecture",
    ),
    "hgsp_core.layout": ("hgsp_core.model.layout",),
    "hgsp_core.plugins": ("hgsp_core.plugin.registry",),
    "hgsp_core.hookspecs": ("hgsp_core.plugin.hookspecs",),
    "hgsp_core.surgery": ("hgsp_core.artifacts.surgery",),
    "hgsp_core.source": ("hgsp_core.runtime.source",),
    "hgsp_core.recipe": ("hgsp_core.runtime.recipe",),
    "hgsp_core.store": ("hgsp_core.runtime.store",),
    "hgsp_core.monitor": ("hgsp_core.runtime.monitor",),
    "hgsp_core.evaluation": ("hgsp_core.evaluate.run", "hgsp_core.evaluate.checkpoint"),
    "hgsp_core.paths": ("hgsp_core.files.paths",),
    "hgsp_core.forms": ("hgsp_core.files.forms",),
    "hgsp_core.sweep": ("hgsp_core.engine.run", "hgsp_core.engine.weights"),
    **{f"hgsp_core.sweep.{name}": (f"hgsp_core.engine.{name}",) for name in _ENGINE},
    **{f"hgsp_core.sweep.{name}": (f"hgsp_core.repair.{name}",) for name in ("ridge", "sequential")},
    "hgsp_core.sweep.elimination": ("hgsp_core.engine.elimination", "hgsp_core.engine.obs"),
}


class _MovedModules(MetaPathFinder, Loader):
    """Old module names, which give the names of the new ones and a DeprecationWarning."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=fullname == "hgsp_core.sweep") if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        def attribute(name: str) -> Any:
            for place in MOVED[module.__name__]:
                if not name.startswith("__") and name in vars(import_module(place)):
                    warnings.warn(f"{module.__name__}.{name} is now in {place}.", DeprecationWarning, stacklevel=2)
                    return getattr(import_module(place), name)
            raise AttributeError(f"module '{module.__name__}' has no attribute '{name}'")

        module.__dict__["__getattr__"] = attribute


def find_moved_modules() -> None:
    """Let `import` find modules under their old names."""
    sys.meta_path.insert(0, _MovedModules())  # a folder of 0.1 may be left, with what Python compiled


C = TypeVar("C")


def adopted(found: object, contract: type[C]) -> type[C] | None:
    """A class of 0.1, which fits its contract without subclassing it, with the contract's defaults; None if it is no class.

    Where the contract has a special form (an evaluator of two models), it is the one whose methods the class has.
    """
    if not isinstance(found, type):
        return None
    for special in contract.__subclasses__():
        needed = getattr(special, "__abstractmethods__", ())
        if needed and all(callable(getattr(found, name, None)) for name in needed):
            contract = special
    warnings.warn(
        f"{found.__module__}.{found.__qualname__} must subclass hgsp_core.{contract.__name__} from hgsp-core 1.0 on.",
        DeprecationWarning,
        stacklevel=2,
    )
    return type(found.__name__, (found, contract), {"__module__": found.__module__, "__doc__": found.__doc__})
