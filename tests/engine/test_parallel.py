"""Two processes share one calibration set and find what one process finds."""

import os
import subprocess
import sys

import numpy as np

from hgsp_core.engine.collectors import (
    GradientScale,
    Gram,
    InputMoments,
    RemovalLoss,
    ResidualCosine,
    TaylorAbs,
    TaylorCurvature,
)
from hgsp_core.engine.parallel import joined, rank
from hgsp_core.engine.run import run_sweep
from hgsp_core.engine.weights import Resident
from hgsp_core.repair.least_squares import LeastSquares
from hgsp_core.repair.least_squares_params import LeastSquaresParams
from hgsp_core.repair.sequential import repair_blocks
from hgsp_core.testing.plans import thinned
from tests.helpers.architectures import layout_of, tiny_model
from tests.helpers.command import ROOT

COLLECTORS = [
    TaylorAbs(),
    GradientScale(),
    TaylorCurvature(batch=3),
    ResidualCosine(),
    InputMoments(),
    Gram(),
    RemovalLoss(samples=5),
]
SAMPLES = 11


def found(samples: int = SAMPLES) -> dict[str, np.ndarray]:
    model = tiny_model("qwen2")
    tokens = np.random.default_rng(0).integers(0, 97, (samples, 13))
    statistics = run_sweep(Resident(model, layout_of(model)), layout_of(model), tokens, COLLECTORS, batch_size=2)
    return repaired(model) | {
        f"{collector.key} {i} {name}": array
        for collector in COLLECTORS
        for i, layer in enumerate(statistics[collector])
        for name, array in layer.items()
    }


def repaired(model) -> dict[str, np.ndarray]:
    """Every tensor that a repair changes."""
    layout = layout_of(model)
    tokens = np.random.default_rng(1).integers(0, 97, (17, 13))  # two of them are held out
    changed = {}
    squares = LeastSquares(LeastSquaresParams())
    repair_blocks(Resident(model, layout), thinned(layout), squares, tokens, 2, changed.update)
    return {f"repair {name}": tensor.numpy() for name, tensor in changed.items()}


def launch(*arguments: str) -> subprocess.CompletedProcess:
    """This file under torchrun with two processes (gloo)."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*torchrun, __file__, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )


def test_two_processes_find_what_one_does(tmp_path):
    done = launch(str(tmp_path / "found.npz"))
    assert done.returncode == 0, done.stderr
    shared, alone = np.load(tmp_path / "found.npz"), found()
    assert set(shared) == set(alone)
    for name, array in alone.items():
        # a removal loss is a difference of losses, and as exact as they are
        scale = np.log(97) if "RemovalLoss" in name else max(1e-3, np.abs(array).max())
        exact = 1e-4 if name.startswith("repair") else 1e-6  # solves magnify the rounding of their sums
        np.testing.assert_allclose(shared[name], array, rtol=exact, atol=exact * scale, err_msg=name)


def test_more_processes_than_samples_are_refused():
    done = launch("refused", "1")
    assert done.returncode != 0
    assert "2 processes cannot share a calibration set of only 1 part(s)" in done.stderr


if __name__ == "__main__":
    with joined():
        statistics = found(*map(int, sys.argv[2:]))
        if rank() == 0:
            np.savez(sys.argv[1], **statistics)
