"""What a campaign is: a function of a seed and a number, which makes one case and judges it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

from . import checkpoints, kills, recipes, runs
from .case import Case, Fault
from .material import Material

MAKERS = {
    "recipes": recipes.case,
    "checkpoints": checkpoints.dense,
    "pruned": checkpoints.pruned,
    "runs": runs.case,
    "kills": kills.case,
}


@dataclass(frozen=True)
class Verdict:
    """What came of a case, and where its files are."""

    campaign: str
    number: int
    said: list[str]
    commands: list[str]
    codes: list[int | None]
    faults: list[Fault]
    folder: Path


@dataclass(frozen=True)
class Campaign:
    """Makes and judges the case of a number, in any process. The files of a case without a fault are removed."""

    name: str
    seed: int
    material: Material
    folder: Path

    def __call__(self, number: int) -> Verdict:
        case = Case(f"{self.name}-{number}", self.seed, self.folder / f"{self.name}-{number}")
        shutil.rmtree(case.folder, ignore_errors=True)
        random = Random(f"{self.seed}:{self.name}:{number}")
        MAKERS[self.name](case, random, self.material)
        if not case.faults:
            shutil.rmtree(case.folder, ignore_errors=True)
        return Verdict(self.name, number, case.said, case.commands, case.codes, case.faults, case.folder)
