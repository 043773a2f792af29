"""The calibration set of a run, drawn once for one text, tokenizer and seed, and kept in the store."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from hgsp_core.artifacts import Calibration
from hgsp_core.checkpoint.read import tokenizer_digest
from hgsp_core.data.contract import Dataset
from hgsp_core.data.run import calibration_text, draw
from hgsp_core.runtime.measure import Reused
from hgsp_core.runtime.recipe import CalibratePart
from hgsp_core.runtime.source import Source
from hgsp_core.runtime.store import Store


def calibrate(part: CalibratePart, dataset: Dataset[Any], source: Source, store: Store, reused: Reused) -> Calibration:
    """The run's tokens. Their key has the hash of the text, so a changed file or dataset is read again."""
    start = time.perf_counter()
    text = calibration_text(dataset, part)
    inputs = calibration_inputs(part, text, source)
    if kept := store.get("calibration", inputs):
        reused["calibration"] = store.seconds("calibration", inputs)
        return Calibration(part.dataset, part.seed, kept["tokens"])
    from hgsp_core.checkpoint.load import load_tokenizer

    calibration = draw(text, load_tokenizer(source.directory), part, source.layout.vocabulary)
    store.put("calibration", inputs, {"tokens": calibration.tokens}, time.perf_counter() - start)
    return calibration


def calibration_inputs(part: CalibratePart, text: str, source: Source) -> dict[str, Any]:
    """What the tokens are made from: the key of a calibration in the store."""
    return {
        "text": hashlib.sha256(text.encode()).hexdigest(),
        "tokenizer": tokenizer_digest(source.directory),
        "samples": part.samples,
        "seq_len": part.seq_len,
        "seed": part.seed,
    }
