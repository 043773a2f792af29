"""The identity of a checkpoint: one hash of its config and weights; and a sample of its logits, which no hash can replace."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hgsp_core.checkpoint.read import read_config, tensor_files

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 24  # bytes
_COLUMNS = 24
#: distance between logits of one model in two programs or on two machines, by the coarsest dtype in play
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2, "q8_0": 2e-1}


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
        _update(digest, path)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    digest = hashlib.sha256()
    _update(digest, path)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)


def logits_sample(tokens: np.ndarray, logits: Tensor) -> dict[str, Any]:
    """A few kilobytes of a model's logits [windows, tokens, vocabulary], for tokens spread over the vocabulary."""
    values = logits.detach().float().cpu().numpy()
    columns = np.unique(np.linspace(0, values.shape[-1] - 1, _COLUMNS).astype(int))
    rounded = np.vectorize(lambda value: float(f"{value:.7g}"))(values[..., columns])
    return {"tokens": tokens.tolist(), "columns": columns.tolist(), "values": rounded.tolist()}


def distance(logits: np.ndarray, reference: np.ndarray) -> float:
    """Distance of logits from a reference, relative to its spread: rms(logits - reference) / std(reference)."""
    difference = np.asarray(logits, np.float64) - np.asarray(reference, np.float64)
    return float(np.sqrt(np.mean(difference**2)) / max(np.std(reference), 1e-30))


def sample_distance(sample: Mapping[str, Any], logits: np.ndarray) -> float:
    """The distance of logits [windows, tokens, vocabulary] from a stored sample of them."""
    return distance(logits[..., sample["columns"]], np.array(sample["values"]))
