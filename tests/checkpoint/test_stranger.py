"""Pruned checkpoints in a virtual environment without hgsp: everything that `stranger.py` does with a model."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hgsp_core.checkpoint.load import load_model
from tests.helpers.checkpoints import PLANS, logits, prune, tokens
from tests.helpers.command import ROOT

FAMILIES = ["llama", "llama-biases", "llama-tied", "mistral", "mistral-window", "qwen2", "qwen2-window", "qwen3"]
GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
#: the same sizes in every layer: 3 of 4 groups, so that 6 heads do not divide the hidden size; and one layer gone
ALIKE = {(i, "attention"): [0, 1, 3] for i in range(5)} | {(i, "mlp"): range(i, 30 + i) for i in range(5)}
UNIFORM = {**ALIKE, (2, "attention"): [], (2, "mlp"): []}
SHARD = 30_000


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A virtual environment that has the libraries but not hgsp: their folder is a path, so editable installs do not count."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    return folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"


def make(folder: Path, family, plan, max_shard_size=10**9, dtype=torch.float32) -> Path:
    """A case for the stranger."""
    folder.mkdir()
    pruned = prune(folder, family, plan, max_shard_size, dtype)
    model, _ = load_model(pruned.directory)
    expected = {"ids": tokens(), "logits": logits(model)}
    if dtype == torch.float32:
        torch.testing.assert_close(logits(model), logits(pruned.reference), atol=1e-5, rtol=1e-5)
        expected["greedy"] = pruned.reference.generate(tokens(), **GREEDY)
        expected["beams"] = pruned.reference.generate(tokens(), num_beams=3, **GREEDY)
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, folder / "expected.safetensors")
    return folder


def visit(bare, work: Path, cases: list[Path]) -> None:
    """The stranger's verdict on all cases."""
    script = ROOT / "tests" / "helpers" / "stranger.py"
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_paths()["purelib"], "HF_HUB_OFFLINE": "1"}
    command = [bare, script, torch.get_num_threads(), work, *cases]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd=work)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [word for case in cases for word in ("ok", case.name)]


def test_a_stranger_can_do_everything_with_a_pruned_checkpoint(bare, tmp_path):
    visit(
        bare,
        tmp_path,
        [
            make(tmp_path / "tied-sharded", "llama-tied", PLANS["everything"], SHARD),
            make(tmp_path / "window", "mistral-window", PLANS["everything"]),
            make(tmp_path / "half", "qwen3", PLANS["everything"], dtype=torch.bfloat16),
            make(tmp_path / "stock", "llama", UNIFORM),
        ],
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_stranger_can_do_everything_with_every_kind_of_removal(bare, tmp_path, family):
    plans = {**PLANS, "uniform": UNIFORM, "alike": ALIKE}
    cases = [
        make(tmp_path / name.replace(" ", "-"), family, plan, SHARD if number % 2 else 10**9)
        for number, (name, plan) in enumerate(plans.items())
    ]
    for dtype in (torch.bfloat16, torch.float16):
        for shard in (SHARD, 10**9):
            case = tmp_path / f"{dtype}-{shard}"
            cases.append(make(case, family, PLANS["everything"], shard, dtype))
    visit(bare, tmp_path, cases)
