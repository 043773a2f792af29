"""H-GSP: structured pruning of language models by recipe.

Importing this package never imports torch. The names here are what plugin authors need; see `docs/architecture.md`.
"""

from importlib import import_module
from typing import Any

from hgsp_core.checkpoint.register import register_on_import

__version__ = "0.1.0"

_PUBLIC = {
    "Architecture": "types",
    "Axis": "types",
    "Method": "types",
    "Params": "types",
    "Repair": "types",
    "Slice": "types",
    "Calibration": "artifacts",
    "Plan": "artifacts",
    "Priors": "artifacts",
    "Scores": "artifacts",
    "Statistics": "artifacts",
    "HgspError": "errors",
    "hookimpl": "hookspecs",
    "Layout": "layout",
    "read_layout": "layout",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Public names are found on first use, so that `hgsp --help` does not pay for all of them."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hgsp_core' has no attribute '{name}'")
    return getattr(import_module(f"hgsp_core.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register_on_import()  # a pruned model then loads without trust_remote_code, whatever is imported first
