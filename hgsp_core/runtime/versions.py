"""What made a result: the versions of Python, of the libraries that compute, and of every plugin."""

from __future__ import annotations

import platform
from importlib.metadata import version

from hgsp_core.plugin import registry

_LIBRARIES = ("hgsp-core", "torch", "transformers", "safetensors", "datasets", "accelerate", "peft", "numpy")


def versions() -> dict[str, str]:
    """Name -> version."""
    providers = sorted({entry.distribution for entry in registry.installed().entries} - set(_LIBRARIES))
    return {"python": platform.python_version(), **{name: version(name) for name in (*_LIBRARIES, *providers)}}
