"""A bounded campaign of damaged input, and the judge that all campaigns rely on. `make fuzz` runs the whole ones."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import transformers.dynamic_module_utils  # noqa: F401 - the forked processes need it

from tests.fuzz.case import Case, judged, shape, where
from tests.fuzz.process import Outcome, in_child
from tests.fuzz.weights import read, write
from tests.helpers.command import ROOT

CASES = {"recipes": 90, "checkpoints": 25, "pruned": 15, "runs": 20, "kills": 7}  # each command is killed once


def test_damaged_recipes_checkpoints_runs_and_kills_are_refused_in_one_message_or_right():
    # in a folder of the campaign's own: pytest's is too long for the sockets of a sweep's processes
    command = [sys.executable, "-m", "tests.fuzz", "--seed", "11", "--jobs", "1"]
    counts = [word for name, cases in CASES.items() for word in (f"--{name}", str(cases))]
    done = subprocess.run([*command, *counts], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert f"{sum(CASES.values())} cases, 0 with faults" in done.stdout


def kinds(outcome, tmp_path, codes=(0, 2)):
    return {fault.kind for fault in judged(outcome, codes, tmp_path / "tmp")}


@pytest.mark.parametrize(
    ("code", "out", "err", "kind"),
    [
        (1, "", "Error: KeyError: 'x'", "exit code"),
        (-11, "", "", "exit code"),
        (0, "", "Traceback (most recent call last):", "internal text"),
        (2, "", "--- Logging error ---\nError: x", "internal text"),
        (2, "half a result", "Error: x", "stdout of a refusal"),
        (2, "", "Error: x: 'NoneType' object is not subscriptable", "raw message"),
        (2, "", "Error: " + "x" * 5_000, "long message"),
        (2, "", "it does not work", "no message"),
        (0, "", "/x/hgsp_core/y.py:3: RuntimeWarning: overflow", "python warning"),
        (None, "", "", "hang"),
    ],
)
def test_what_no_command_may_end_with_is_a_fault(code, out, err, kind, tmp_path):
    assert kind in kinds(Outcome(("run", "x"), code, out, err, 1.0), tmp_path)


def test_a_plain_refusal_and_a_plain_result_are_no_faults(tmp_path):
    assert not kinds(Outcome(("run", "x"), 2, "", "Error: recipe.yaml: score.use: unknown.\n", 1.0), tmp_path)
    assert not kinds(Outcome(("run", "x"), 0, "Result: out\n", "", 1.0), tmp_path)


def test_a_forked_command_ends_as_a_process_of_its_own_would(tmp_path):
    def leaves_and_dies():
        (Path(os.environ["TMPDIR"]) / "left").mkdir()
        print("said")
        sys.exit(2)

    outcome = in_child(leaves_and_dies, tmp_path, tmp_path / "scratch", ("run",))
    assert (outcome.code, outcome.out) == (2, "said\n")
    assert "temporary files" in {fault.kind for fault in judged(outcome, (0, 2), tmp_path / "scratch" / "tmp")}
    assert in_child(lambda: 1 / 0, tmp_path, tmp_path / "scratch").code == 1
    assert in_child(lambda: time.sleep(60), tmp_path, tmp_path / "scratch", patience=0.3).code is None


def test_a_refusal_that_writes_or_changes_something_is_a_fault(tmp_path, monkeypatch):
    case = Case("x-0", 0, tmp_path)
    case.input.mkdir()
    (case.input / "model").write_text("sound")

    def writes(arguments, cwd, scratch, patience):
        (cwd / "model").write_text("changed")
        (cwd / "pwned").touch()
        return Outcome(arguments, 2, "", "Error: no", 0.1)

    monkeypatch.setattr("tests.fuzz.process.hgsp", writes)
    case.run("run")
    assert {fault.kind for fault in case.faults} == {"leftover", "changed input"}


def test_the_same_fault_in_two_cases_is_told_once():
    trace = 'File "/a/hgsp_core/x.py", line {}, in read\n  File "/lib/json.py", line 3, in loads\nValueError: {}'
    assert where(trace.format(3, "a")) == where(trace.format(3, "b")) == "ValueError at hgsp_core/x.py in read"
    assert shape("Error: recipe.yaml: 'a/b' has 3 rows") == shape("Error: recipe.yaml: 'c' has 47 rows")


def test_weights_that_are_written_again_are_those_that_were_read(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    save_file(
        {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "x", {"format": "pt"}
    )
    write(tmp_path / "y", *read(tmp_path / "x"))
    before, after = load_file(tmp_path / "x"), load_file(tmp_path / "y")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
