"""hgsp.json: the files of an export and a sample of its logits, so that copies of it can be checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.fingerprint import file_sha256, logits_sample
from hgsp_core.files.forms import Record
from hgsp_core.files.text import read_object

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from hgsp_core.model.layout import Layout

RECORD = "hgsp.json"


def write_record(folder: Path, layout: Layout, tokens: np.ndarray, logits: Tensor) -> None:
    """Write hgsp.json into a folder that an exporter has filled: size and sha256 of each file, and a sample of the logits.

    `family` is the original's model_type; config.json may name a related family.

    Args:
        layout: the pruned model's own.
        tokens, logits: [windows, seq_len], [windows, seq_len, vocabulary] of the checkpoint.
    """
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    record = {
        "version": 1,
        "hgsp_core": version("hgsp-core"),
        "family": layout.architecture.model_type,
        "dtype": str(logits.dtype).removeprefix("torch."),
        "files": {
            name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for name, path in files.items()
            if name != RECORD
        },
        "logits": logits_sample(tokens, logits),
    }
    (folder / RECORD).write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(folder: Path) -> Mapping[str, Any] | None:
    """The content of hgsp.json; None where there is none. Raises CheckpointError where it cannot be read."""
    path = folder / RECORD
    try:
        return read_object(path, Record)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointError.bad_json(path, str(error)) from None
