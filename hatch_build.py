"""registry.yaml, which stands at the root of the repository, goes into the wheel beside the package's code."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Registry(BuildHookInterface):
    """Not into an editable install, which reads the file where it stands."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before each build of a wheel; `version` is "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"]["registry.yaml"] = "hgsp_core/registry.yaml"
