"""The calibration set of a run: each text's windows are drawn once for one tokenizer and seed, and kept in the store."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from hgsp_core.artifacts import Calibration
from hgsp_core.checkpoint.read import tokenizer_digest
from hgsp_core.data.run import CalibrationText, calibration_text, draw, mixed
from hgsp_core.runtime.measure import Reused
from hgsp_core.runtime.recipe import CalibratePart
from hgsp_core.runtime.source import Source
from hgsp_core.runtime.store import Store


def calibrate(
    part: CalibratePart, texts: Sequence[CalibrationText], source: Source, store: Store, reused: Reused
) -> Calibration:
    """The run's tokens."""
    return mixed(texts, [_windows(part, text, source, store, reused, len(texts) > 1) for text in texts], part.seed)


def _windows(
    part: CalibratePart, text: CalibrationText, source: Source, store: Store, reused: Reused, several: bool
) -> np.ndarray:
    """The windows of one text. Their key has the hash of the text, so a changed file or dataset is read again."""
    start = time.perf_counter()
    content = calibration_text(text, part)
    inputs = calibration_inputs(part, text, content, source)
    if kept := store.get("calibration", inputs):
        reused[f"calibration {text.name}" if several else "calibration"] = store.seconds("calibration", inputs)
        return kept["tokens"]
    from hgsp_core.checkpoint.load import load_tokenizer

    tokenizer = load_tokenizer(source.directory)
    tokens = draw(content, tokenizer, part, text.name, text.windows, source.layout.vocabulary)
    store.put("calibration", inputs, {"tokens": tokens}, time.perf_counter() - start)
    return tokens


def calibration_inputs(part: CalibratePart, text: CalibrationText, content: str, source: Source) -> dict[str, Any]:
    """What a text's windows are made from: their key in the store."""
    return {
        "text": hashlib.sha256(content.encode()).hexdigest(),
        "tokenizer": tokenizer_digest(source.directory),
        "samples": text.windows,
        "seq_len": part.seq_len,
        "seed": part.seed,
        **({"stride": part.stride} if part.stride else {}),
    }
