"""Artifacts on disk, found by the hash of their inputs.

One file an artifact: safetensors (no pickle) with its inputs and a checksum in the header. Written beside and renamed, so
that a reader never meets half a file; one that does not match its checksum is reported and made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from hgsp_core.files.paths import expanded
from hgsp_core.files.text import require_writable
from hgsp_core.runtime.errors import StoreError

log = logging.getLogger("hgsp")

Arrays = Mapping[str, np.ndarray]


def default_root() -> Path:
    """`$HGSP_CACHE`, or `hgsp` in the user's cache directory."""
    if root := os.environ.get("HGSP_CACHE"):
        return expanded(root)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "hgsp"


def key_of(inputs: Mapping[str, Any]) -> str:
    """Name of an artifact: sha256 of its inputs as canonical JSON."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    root: Path
    writes: bool = True

    def require(self) -> None:
        """Raises StoreError if nothing can be written here; creates nothing."""
        try:
            require_writable(self.root)
        except OSError as error:
            raise StoreError.cannot_write(self.root, error) from None

    def read_only(self) -> Store:
        """The same store without writing, for all but the first of several processes."""
        return Store(self.root, writes=False)

    def path(self, kind: str, inputs: Mapping[str, Any]) -> Path:
        return self.root / kind / f"{key_of(inputs)}.safetensors"

    def get(self, kind: str, inputs: Mapping[str, Any]) -> Arrays | None:
        """The arrays kept for these inputs, or None: nothing there, or damaged (then a warning is logged)."""
        path = self.path(kind, inputs)
        if not path.is_file():
            return None
        try:
            arrays = load_file(path)
            with safe_open(path, framework="numpy") as file:
                stored = (file.metadata() or {}).get("sha256")
        except (SafetensorError, OSError, ValueError) as error:
            stored, arrays = None, {}
            log.debug("unreadable artifact %s: %s", path, error)
        if stored != _checksum(arrays):
            log.warning("The stored %s %s is damaged; it is computed again.", kind, path)
            return None
        return arrays

    def seconds(self, kind: str, inputs: Mapping[str, Any]) -> float:
        """Seconds it took to make the artifact of these inputs; 0 if not known."""
        try:
            with safe_open(self.path(kind, inputs), framework="numpy") as file:
                return float((file.metadata() or {}).get("seconds", 0))
        except (SafetensorError, OSError, ValueError):  # the store was cleared since it was read
            return 0.0

    def put(self, kind: str, inputs: Mapping[str, Any], arrays: Arrays, seconds: float = 0.0) -> None:
        """Keep the arrays, and the seconds it took to make them. The file is written atomically."""
        if not self.writes:
            return
        path = self.path(kind, inputs)
        contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        metadata = {
            "sha256": _checksum(contiguous),
            "inputs": json.dumps(inputs, sort_keys=True),
            "seconds": f"{seconds:.3f}",
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".partial")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(save(contiguous, metadata=metadata))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise StoreError.cannot_write(self.root, error) from None


def _checksum(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
