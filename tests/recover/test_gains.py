"""`gains`: one factor a column of the writers, trained against the dense model, and nothing else of the checkpoint changed."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hgsp_core import run
from hgsp_core.artifacts import Calibration
from hgsp_core.errors import HgspError, RecipeError
from hgsp_core.recover.run import recovery_work
from hgsp_core.runtime.recipe import Use, parse_recipe
from hgsp_core.runtime.store import Store
from tests.helpers.command import ROOT

MODEL = ROOT / "models" / "pydoc-llama"
RECIPE = f"""
model: {{path: {MODEL}}}
calibrate: {{dataset: pydoc, samples: 48}}
score: {{use: curvature}}
allocate: {{use: hgsp, with: {{temperature: 0, epsilon: 0, ratio: 0.3, of: layers}}}}
reconstruct: {{use: least-squares, with: {{target: own, readers: false, ridge: 0.1}}}}
evaluate: [{{use: perplexity, with: {{datasets: [pydoc], max_windows: 60}}}}]
output: OUTPUT
"""


def recipe(folder, recover=None):
    text = RECIPE.replace("OUTPUT", str(folder))
    return parse_recipe(text + (f"recover: {json.dumps(recover)}\n" if recover else ""), "test")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(report, tensors) of the same run without and with gains."""
    folder = tmp_path_factory.mktemp("gains")
    store = Store(folder / "store")
    found = []
    for name, recover in (("plain", None), ("gains", {"use": "gains"})):
        report = run(recipe(folder / name, recover), store=store)
        found.append((report, load_file(folder / name / "model" / "model.safetensors")))
    return found


def test_every_column_of_a_writer_is_multiplied_by_one_gain_and_nothing_else_changes(runs):
    (_, before), (report, after) = runs
    assert before.keys() == after.keys()
    gains = 0
    for name, tensor in before.items():
        if not name.endswith(("o_proj.weight", "down_proj.weight")):
            assert torch.equal(tensor, after[name]), name
            continue
        gain = (after[name] * tensor).sum(0) / tensor.square().sum(0)
        torch.testing.assert_close(after[name], tensor * gain, rtol=1e-4, atol=1e-6)
        assert 0 < (gain - 1).abs().max() < 1
        gains += len(gain)
    assert report["recovery"]["trainable_parameters"] == gains


def test_the_model_with_gains_predicts_better_than_the_repaired_one(runs):
    (plain, _), (gained, _) = runs
    assert gained["after"]["perplexity"]["pydoc"] < plain["after"]["perplexity"]["pydoc"]
    assert gained["recovery"]["rows"] + gained["recovery"]["held_out_rows"] == 48  # the calibration windows


def test_the_calibration_set_is_read_for_gains_even_where_nothing_else_needs_it(tmp_path):
    plain = recipe(tmp_path / "out", {"use": "gains", "with": {"epochs": 0.2}})
    settings = {"score": {"use": "magnitude"}, "reconstruct": {"use": "none"}, "evaluate": []}
    report = run(plain, store=Store(tmp_path / "store"), settings=settings)
    assert report["calibration"]["samples"] == 48
    assert report["recovery"]["steps"] >= 1


def test_gains_without_a_calibration_set_ask_for_a_dataset(tmp_path):
    from hgsp_core.recover.contract import RecoverJob
    from hgsp_core.recover.gains import Gains
    from hgsp_core.recover.training_params import GainsParams

    with pytest.raises(HgspError, match="calibration windows, and there are none here"):
        Gains(GainsParams())(RecoverJob(MODEL, tmp_path / "out", None, 0))
    with pytest.raises(HgspError, match="batch_size"):
        Gains(GainsParams(batch_size=6))


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises((HgspError, RecipeError), match="batch_size: 6"):
        run(recipe(tmp_path / "out", {"use": "gains", "with": {"batch_size": 6}}), store=Store(tmp_path / "store"))
    assert not (tmp_path / "out").exists()


def test_a_killed_training_on_other_calibration_windows_is_not_gone_on_with(tmp_path):
    store, use = Store(tmp_path), Use(use="gains")
    windows = [Calibration(("x",), 0, np.full((4, 8), token), np.zeros(4, dtype=int)) for token in (1, 2)]
    first, second = (recovery_work(store, use, 0, MODEL, calibration) for calibration in windows)
    assert first != second
    assert first == recovery_work(store, use, 0, MODEL, windows[0])
