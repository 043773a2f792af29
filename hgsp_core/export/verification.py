"""Checks of an exported checkpoint, on any machine at any time: files, config against tensors, logits.

torch is imported where a model is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hgsp_core.checkpoint import MODEL_TYPE
from hgsp_core.checkpoint.fingerprint import TOLERANCE, file_sha256, sample_distance
from hgsp_core.checkpoint.read import read_config, require_model, stored_dtype
from hgsp_core.checkpoint.record import RECORD, read_record
from hgsp_core.checkpoint.stored import stored_shapes
from hgsp_core.checkpoint.trust import MODELING_FILE, code_fault
from hgsp_core.errors import HgspError
from hgsp_core.export.errors import VerifyError
from hgsp_core.export.gguf.errors import GgufError
from hgsp_core.files.forms import Report
from hgsp_core.files.text import read_object
from hgsp_core.plugin.errors import PluginError
from hgsp_core.runtime.measure import open_weights
from hgsp_core.runtime.monitor import Monitor
from hgsp_core.runtime.recipe import ModelPart, Recipe
from hgsp_core.runtime.source import architecture_of, checkpoint_layout


@dataclass(frozen=True)
class Finding:
    """The result of one check. `sound`: True, False, or None if it could not be checked; `text` says why."""

    place: str
    sound: bool | None
    text: str


def verify(path: Path, monitor: Monitor) -> list[Finding]:
    """Check a model directory, a directory with GGUF files, or everything that a run exported.

    Raises:
        VerifyError, CheckpointError: there is nothing of the kind.
    """
    if any((path / name).is_file() for name in ("config.json", RECORD)) or any(path.glob("*.gguf")):
        return list(_folder(path, path.name or str(path), monitor))
    if not (path / "report.json").is_file():
        if path.is_dir():
            require_model(path)
        raise VerifyError.nothing(path)
    findings: list[Finding] = []
    for place in _exported(path):
        findings += _folder(path / place, place, monitor)
    return findings


def _exported(run: Path) -> list[str]:
    """The folders that a run's report.json lists, relative to it."""
    try:
        exports = read_object(run / "report.json", Report).get("exports", ["model"])
    except ValueError as error:
        raise VerifyError.bad_report(run / "report.json", error) from None
    return list(dict.fromkeys(place if not Path(place).suffix else str(Path(place).parent) for place in exports))


def _folder(folder: Path, place: str, monitor: Monitor) -> Iterator[Finding]:
    """The checks of one folder, up to the first that fails."""
    checks = {"files": _files}
    if (folder / "config.json").is_file():
        checks |= {"code": _code, "tensors": _tensors, "logits": _logits}
    elif any(folder.glob("*.gguf")):
        checks |= {"GGUF": _gguf}
    for what, check in checks.items():
        with monitor.stage(f"Verify {what} of {place}"):
            try:
                findings = list(check(folder, place, monitor))
            except HgspError as error:
                findings = [Finding(place, False, str(error))]
        yield from findings
        if any(finding.sound is False for finding in findings):
            return


def _files(folder: Path, place: str, monitor: Monitor) -> Iterator[Finding]:
    """Every file of the record exists with the same size and bytes."""
    if not folder.is_dir():
        yield Finding(place, False, f"'{folder}' is missing")
        return
    record = read_record(folder)
    if record is None:
        yield Finding(place, None, f"checksums and logits: no {RECORD} there to compare with")
        return
    faults = 0
    for name, entry in record["files"].items():
        if fault := _file_fault(folder / name, entry):
            faults += 1
            yield Finding(place, False, fault)
    if not faults:
        yield Finding(place, True, f"checksums of {len(record['files'])} file(s) are those that they were written with")


def _file_fault(path: Path, entry: Mapping[str, Any]) -> str | None:
    if not path.is_file():
        return f"'{path}' is missing"
    if path.stat().st_size != entry["bytes"]:
        return f"'{path}' has {path.stat().st_size} bytes, and was written with {entry['bytes']}"
    if file_sha256(path) != entry["sha256"]:
        return f"'{path}' was changed after it was written: its checksum differs"
    return None


def _code(folder: Path, place: str, monitor: Monitor) -> Iterator[Finding]:
    """The code that `trust_remote_code=True` runs is this package's own; a checksum next to it would prove nothing."""
    config = read_config(folder)
    if fault := code_fault(folder, config):
        fix = "read it before you load it with trust_remote_code=True, or export the model again (hgsp export DIR --to huggingface)"
        yield Finding(place, False, f"{fault}: another version wrote it, or somebody changed it; {fix}")
    elif config.get("model_type") == MODEL_TYPE:
        yield Finding(place, True, f"{MODELING_FILE} is hgsp-core's own")


def _tensors(folder: Path, place: str, monitor: Monitor) -> Iterator[Finding]:
    """config.json describes exactly the tensors that are there, with their shapes."""
    from hgsp_core.checkpoint.load import parameter_shapes, require_agreement, skeleton

    model = skeleton(folder)
    try:
        architecture = architecture_of(folder)
    except PluginError:  # its tensors are in files what they are in memory
        architecture = None
    require_agreement(folder, model, stored_shapes(folder, architecture))
    yield Finding(place, True, f"config.json and {len(parameter_shapes(model))} tensors agree")


def _logits(folder: Path, place: str, monitor: Monitor) -> Iterator[Finding]:
    """The model produces the logits of the export."""
    from hgsp_core.engine.likelihood import logits

    record, dtype = read_record(folder), stored_dtype(folder)
    layout = checkpoint_layout(folder)
    recipe = Recipe(model=ModelPart(path=str(folder)), output=str(folder))
    weights = open_weights(folder, layout, dtype, recipe, monitor)
    few = np.arange(8)[None] % int(layout.config["vocab_size"])
    tokens = np.array(record["logits"]["tokens"]) if record else few
    vocabulary = layout.vocabulary
    if record and not all(0 <= i < vocabulary for i in (*tokens.flat, *record["logits"]["columns"])):
        fault = f"is of another model: its tokens are not among the {vocabulary} of this one"
        yield Finding(place, False, f"'{folder / RECORD}' {fault}")
        return
    values = logits(weights, tokens).float().cpu().numpy()
    if not np.isfinite(values).all():
        yield Finding(place, False, f"the model in '{folder}' loads, but its logits are not finite")
    elif record is None:
        yield Finding(place, True, "the model loads and its logits are finite")
    else:
        yield _answered(place, "the model loads and", sample_distance(record["logits"], values), TOLERANCE[dtype])


def _gguf(folder: Path, place: str, monitor: Monitor) -> Iterator[Finding]:
    """Every GGUF file is complete, and llama.cpp, if installed, produces the checkpoint's logits."""
    try:
        from hgsp_core.export.gguf.check import llama_cpp_is_there, run_llama_cpp, summary
    except ImportError:
        raise GgufError.not_installed() from None
    record = read_record(folder)
    for path in sorted(folder.glob("*.gguf")):
        tensors, context, coarsest = summary(path)
        yield Finding(place, True, f"{path.name} is intact: {tensors} tensors")
        if record is None:
            continue
        if not llama_cpp_is_there():
            yield Finding(place, None, f"{path.name}: logits: llama-cpp-python is not installed")
            continue
        tokens = np.array(record["logits"]["tokens"])[:, :context]
        sample = {**record["logits"], "values": np.array(record["logits"]["values"])[:, :context]}
        most = max(TOLERANCE[coarsest], TOLERANCE[record["dtype"]])
        found = sample_distance(sample, run_llama_cpp(path, tokens, []).logits)
        yield _answered(place, f"{path.name}: llama.cpp loads it and", found, most)


def _answered(place: str, who: str, found: float, most: float) -> Finding:
    away = f"(logits {found:.1g} of their spread away)"
    if found <= most:
        return Finding(place, True, f"{who} produces the logits of the export {away}")
    return Finding(place, False, f"{who} produces different logits than at export {away}")
