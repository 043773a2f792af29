"""The identity of a checkpoint: one hash of its config and of every weight."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hgsp_core.checkpoint.read import read_config, tensor_files

_CHUNK = 1 << 24  # bytes


def fingerprint(directory: Path | str) -> str:
    """sha256 over names, sizes and bytes of config.json and of all its safetensors files, in order of name.

    Raises:
        CheckpointError: the directory is not a complete checkpoint.
    """
    directory = Path(directory)
    read_config(directory)
    files = {directory / "config.json", *tensor_files(directory).values()}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
