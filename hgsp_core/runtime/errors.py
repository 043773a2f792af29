"""A place that a run cannot write to."""

from __future__ import annotations

from pathlib import Path

from hgsp_core.errors import HgspError


class OutputError(HgspError):
    """An existing result, or a place that cannot be written."""

    @classmethod
    def exists(cls, path: str) -> OutputError:
        return cls(f"output: '{path}' exists and is not overwritten. Choose another (--output DIR), or move it away.")

    @classmethod
    def busy(cls, path: str) -> OutputError:
        return cls(f"output: another run is writing '{path}'. Wait for it, or choose another with --output DIR.")

    @classmethod
    def cannot_make(cls, path: str, error: OSError) -> OutputError:
        return cls(f"output: '{path}' cannot be created: {error.strerror or error}. Choose another with --output DIR.")


class StoreError(HgspError):
    """A store of artifacts that cannot be written."""

    @classmethod
    def cannot_write(cls, root: Path, error: OSError) -> StoreError:
        reason = error.strerror or error
        return cls(f"Artifacts cannot be written to '{root}': {reason}. Choose another: --cache DIR or HGSP_CACHE.")
