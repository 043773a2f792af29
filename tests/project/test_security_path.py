"""No process that a command starts imports anything from the directory that the user is in."""

import os
import subprocess
import sys

import pytest
import yaml

from hgsp_core.runtime.fresh import run_fresh
from hgsp_core.testing.method import require_light
from tests.helpers.command import ROOT
from tests.helpers.hostile import Trap, small_model

#: what the processes import first, and what only they import
MODULES = ("hgsp_core", "gguf", "torch", "json", "numpy", "random", "signal", "multiprocessing", "transformers", "safetensors",
           "llama_cpp", "matplotlib", "ray", "pydantic", "yaml", "pydoc")  # fmt: skip


@pytest.fixture
def poisoned(tmp_path, monkeypatch):
    """A current directory full of modules that say they were run."""
    trap = Trap(tmp_path / "sprung")
    folder = tmp_path / "here"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(trap.source + "raise SystemExit('poisoned')\n")
    monkeypatch.chdir(folder)
    yield folder
    assert not trap.sprung(), "a module of the current directory was imported"


def carry_out(tmp_path, poisoned, *commands):
    """Commands in the poisoned directory; `hgsp` is a script elsewhere, as pip makes it."""
    recipe = {
        "model": {"path": str(small_model(tmp_path / "model"))},
        "calibrate": {"dataset": "pydoc", "samples": 4, "seq_len": 16},
        "score": {"use": "magnitude"},
        "allocate": {"use": "hgsp", "with": {"ratio": 0.2}},
        "reconstruct": {"use": "none"},
        "export": [{"use": "huggingface"}, {"use": "gguf"}],
        "output": "run",
    }
    (poisoned / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    grid = {"base": {**recipe, "export": []}, "grid": {"allocate.with.ratio": [0.2]}, "output": "sweep"}
    (poisoned / "sweep.yaml").write_text(yaml.safe_dump(grid))
    script = tmp_path / "bin" / "hgsp"
    script.parent.mkdir()
    script.write_text("from hgsp_core.cli import main\n\nif __name__ == '__main__':\n    main()\n")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HGSP_CACHE": str(tmp_path / "store"), "PYTHONPATH": str(ROOT)}
    for command in commands:
        done = subprocess.run(
            [sys.executable, script, *command], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)


def test_no_command_imports_from_the_current_directory(tmp_path, poisoned):
    """A run with the fresh processes of both exports, its check, and the processes of a sweep."""
    carry_out(tmp_path, poisoned, ("run", "recipe.yaml"), ("verify", "run"), ("sweep", "sweep.yaml"))
    assert (poisoned / "run" / "gguf").is_dir()
    assert (poisoned / "sweep" / "comparison.html").is_file()


@pytest.mark.slow
def test_the_workers_of_a_ray_cluster_do_not_either(tmp_path, poisoned):
    carry_out(tmp_path, poisoned, ("sweep", "sweep.yaml", "--ray", "local"))
    assert (poisoned / "sweep" / "comparison.html").is_file()


def test_a_fresh_process_imports_from_pythonpath_as_it_is_meant_here_and_from_nowhere_else(poisoned, monkeypatch):
    (poisoned / "mine").mkdir()
    (poisoned / "mine" / "wanted.py").write_text("print('here')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "mine", ""]))
    for start in (("-c", "import wanted, json, random, multiprocessing"), ("-m", "wanted")):
        done = run_fresh(*start)
        assert (done.returncode, done.stdout.strip()) == (0, "here"), done.stderr


def test_the_conformance_kit_imports_nothing_from_the_current_directory(poisoned):
    require_light("hgsp_core.recover.training_params")
