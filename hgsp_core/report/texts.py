"""Which texts a run was calibrated on, and on which of the evaluated ones it was not: from its report.json alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hgsp_core.artifacts.calibration import Calibrated
from hgsp_core.report.contract import PROTOCOL

#: what the star at measures on `unseen` texts says
UNSEEN = "* measured on a text that the model was not calibrated on"


def told(calibration: Calibrated) -> str:
    """The texts with their numbers of windows: `c4 (96 windows), wikitext2 (32 windows)`; of one text only its name."""
    windows = calibration.get("windows", {})
    return ", ".join(f"{name} ({n} windows)" for name, n in windows.items()) or calibration["dataset"]


def calibrated_on(report: Mapping[str, Any]) -> list[str]:
    """Lines for readers of a run: what it was calibrated on, and what that means for other text."""
    calibration = report.get("calibration")
    if not calibration:
        return []
    if calibration.get("windows"):
        lines = [f"Calibrated on {told(calibration)}."]
    else:
        several = "calibrate.dataset takes several texts."
        lines = [f"Calibrated on {told(calibration)} only. Text of other kinds may lose more; {several}"]
    return [*lines, f"{UNSEEN}."] if unseen(report) else lines


def unseen(report: Mapping[str, Any]) -> frozenset[str]:
    """Names of the evaluated texts that the run was not calibrated on; none where it was not calibrated.

    Splits do not count: the test split of a dataset is the kind of text that its training split is.
    """
    if not report.get("calibration"):
        return frozenset()
    seen = [_kind(use, with_) for use, with_ in _calibrated(report["recipe"].get("calibrate") or {})]
    return frozenset(
        name
        for metric, protocols in report["after"].items()
        if metric.endswith(PROTOCOL)
        for name, protocol in protocols.items()
        if isinstance(protocol, Mapping) and "dataset" in protocol
        if _kind(protocol["dataset"], protocol.get("with")) not in seen
    )


def _calibrated(part: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, parameters) of each text of a recipe's `calibrate`."""
    dataset = part.get("dataset")
    if isinstance(dataset, str):
        yield dataset, part.get("with", {})
    else:
        yield from ((text["use"], text.get("with", {})) for text in dataset or ())


def _kind(name: str, with_: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    return name, {key: value for key, value in (with_ or {}).items() if not key.endswith("_split")}
