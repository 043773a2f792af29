"""A plugin or method that is missing or invalid."""

from __future__ import annotations

from collections.abc import Sequence

from hgsp_core.errors import HgspError


class PluginError(HgspError):
    """A method that no plugin or two plugins provide, or whose plugin is broken."""

    @classmethod
    def unknown(cls, kind: str, name: str, hint: str, broken: Sequence[tuple[str, str]]) -> PluginError:
        note = "".join(f"\nThe installed plugin '{d}' is broken and may be the one you need: {r}" for d, r in broken)
        return cls(f"There is no {kind} '{name}'.{hint} See all with: hgsp plugins list{note}")

    @classmethod
    def not_installed(cls, kind: str, name: str, distribution: str) -> PluginError:
        return cls(f"The {kind} '{name}' is in a known plugin that is not installed: pip install {distribution}")

    @classmethod
    def ambiguous(cls, kind: str, name: str, distributions: Sequence[str]) -> PluginError:
        choices = " or ".join(f"'{d}/{name}'" for d in distributions)
        return cls(f"The {kind} '{name}' is provided by {' and '.join(distributions)}. Write {choices} in the recipe.")

    @classmethod
    def misspelled_hook(cls, name: str, hint: str) -> PluginError:
        return cls(f"it implements '{name}', which is not a hook of hgsp.{hint}")

    @classmethod
    def unmarked_hook(cls, name: str) -> PluginError:
        return cls(f"its '{name}' is not marked: put @hookimpl (from hgsp_core import hookimpl) above it.")

    @classmethod
    def provides_nothing(cls) -> PluginError:
        return cls("it provides nothing: none of its hooks returned a method or an architecture.")

    @classmethod
    def doubled(cls, kind: str, name: str) -> PluginError:
        return cls(f"it provides the {kind} '{name}' twice; rename one of them.")

    @classmethod
    def wrong_type(cls, hook: str, wanted: str, got: str) -> PluginError:
        return cls(f"its '{hook}' must return a list of {wanted}, not of {got}.")

    @classmethod
    def other_api(cls, name: str, api: int, ours: int) -> PluginError:
        return cls(f"its '{name}' is for plugin API {api}, but this hgsp-core uses {ours}; install a matching version.")

    @classmethod
    def slash(cls, name: str) -> PluginError:
        return cls(f"its name '{name}' contains '/', which separates a distribution from a name.")

    @classmethod
    def target(cls, distribution: str, name: str, target: str, error: Exception) -> PluginError:
        return cls(
            f"'{name}' of the plugin '{distribution}' cannot be used: loading {target} failed with "
            f"{type(error).__name__}: {error}. Reinstall or update it: pip install -U {distribution}"
        )

    @classmethod
    def no_class(cls, distribution: str, name: str, target: str, contract: str) -> PluginError:
        return cls(f"'{name}' of the plugin '{distribution}': {target} must be a subclass of hgsp_core.{contract}.")

    @classmethod
    def incomplete(cls, distribution: str, name: str, target: str, contract: str, lacks: Sequence[str]) -> PluginError:
        return cls(
            f"'{name}' of the plugin '{distribution}': {target} lacks {', '.join(lacks)}, which hgsp_core.{contract} requires."
        )
