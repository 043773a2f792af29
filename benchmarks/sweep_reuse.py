"""What a grid costs through `hgsp sweep`, against the same runs one by one, each with a store of its own.

    OMP_NUM_THREADS=1 python benchmarks/sweep_reuse.py [--model models/pydoc-llama] [--samples 128] [--jobs 1] [--json FILE]

Both are commands as a user gives them: wall time of whole processes, imports included, one after the other on the machine as
it is. The grid: three methods x four ratios on one calibration set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
RATIOS = [0.1, 0.2, 0.3, 0.4]
_TAYLOR = {"score": {"use": "taylor"}, "prior": {"use": "removal"}}
METHODS = [
    {"name": "gated", "set": {**_TAYLOR, "allocate": {"use": "hgsp"}}},
    {"name": "layerwise", "set": {**_TAYLOR, "allocate": {"use": "layerwise"}}},
    {"name": "even", "set": {"score": {"use": "wanda"}, "allocate": {"use": "uniform"}}},
]
MEASURING = ("Calibrate", "Load", "Sweep", "Evaluate original")


def grid(model: Path, samples: int) -> dict:
    return {
        "base": {
            "model": {"path": str(model.resolve())},
            "calibrate": {"dataset": "pydoc", "samples": samples, "seq_len": 128},
            "evaluate": [{"use": "perplexity", "with": {"datasets": ["pydoc"]}}],
            "reconstruct": {"use": "none"},
            "export": [],
        },
        "variants": {"method": METHODS},
        "grid": {"allocate.with.ratio": RATIOS},
        "output": "sweep",
    }


def timed(folder: Path, *arguments: str | Path) -> float:
    """Wall seconds of one command."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "hgsp_core", *map(str, arguments), "--quiet"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measuring(directories: list[Path]) -> float:
    """Seconds that these runs spent on what a sweep shares."""
    reports = [json.loads((directory / "report.json").read_text(encoding="utf-8")) for directory in directories]
    return sum(report["timings"].get(stage, 0.0) for report in reports for stage in MEASURING)


def compare(model: Path, samples: int, jobs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sweep.yaml").write_text(yaml.safe_dump(grid(model, samples), sort_keys=False), encoding="utf-8")
        together = timed(folder, "sweep", "sweep.yaml", "--jobs", str(jobs), "--cache", folder / "store")
        runs = sorted((folder / "sweep" / "runs").iterdir())
        alone = []
        for i, run in enumerate(runs):
            places = ("--output", folder / f"alone-{i}", "--cache", folder / f"store-{i}")
            alone.append(timed(folder, "run", run / "recipe.yaml", *places))
            print(f"{run.name}: {alone[-1]:.1f} s alone", file=sys.stderr)
        return {
            "runs": len(runs),
            "sweep_seconds": together,
            "alone_seconds": sum(alone),
            "ratio": together / sum(alone),
            "measuring_in_runs_of_the_sweep": measuring(runs),
            "measuring_in_runs_alone": measuring([folder / f"alone-{i}" for i in range(len(runs))]),
            "calibrations_stored": len(list((folder / "store" / "calibration").iterdir())),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "pydoc-llama")
    parser.add_argument("--samples", type=int, default=128, help="calibration windows of 128 tokens")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = compare(arguments.model, arguments.samples, arguments.jobs)
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
