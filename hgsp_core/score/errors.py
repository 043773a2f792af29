"""Priors from a file that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hgsp_core.errors import HgspError, did_you_mean


class PriorFileError(HgspError):
    """A file of priors that cannot be used."""

    @classmethod
    def unreadable(cls, path: Path, error: Exception) -> PriorFileError:
        return cls(
            f"prior.with.path: '{path}' cannot be read as priors ({type(error).__name__}: {error}). It must be JSON of the form "
            '{"layer": [one number per layer], "blocks": {"attention": [...], "mlp": [...]}}, like layer_importance.json of a run.'
        )

    @classmethod
    def unknown_axis(cls, path: Path, axis: str, known: Sequence[str]) -> PriorFileError:
        return cls(f"prior.with.path: '{path}': blocks: the model has no axis '{axis}'.{did_you_mean(axis, known)}")

    @classmethod
    def other_length(cls, path: Path, name: str, there: int, layers: int) -> PriorFileError:
        return cls(f"prior.with.path: '{path}': '{name}' has {there} numbers, but the model has {layers} layers.")
