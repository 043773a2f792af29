"""What a user sees while a command works, and what a fault turns into."""

import io
import json
import logging
import os
import time

import numpy as np
import pytest
import torch
from rich.console import Console

from hgsp_core.cli import console, faults
from hgsp_core.cli.show import print_json
from hgsp_core.errors import RecipeError
from hgsp_core.runtime import monitor


def shown(terminal: bool, quiet: bool = False) -> tuple[console.TerminalMonitor, io.StringIO]:
    screen = io.StringIO()
    return console.TerminalMonitor(Console(file=screen, force_terminal=terminal, width=100), quiet), screen


def work(stages: monitor.Monitor) -> None:
    """Half of a stage of ten steps, long enough for a bar to be drawn."""
    with stages.stage("Sweep") as progress:
        progress(5, 10)
        time.sleep(0.4)


def test_a_stage_that_takes_long_gets_a_bar_with_the_time_left(monkeypatch):
    monkeypatch.setattr(console, "PATIENCE", 0.1)
    stages, screen = shown(terminal=True)
    work(stages)
    assert "5/10" in screen.getvalue()
    assert "left" in screen.getvalue()


def test_a_quick_stage_gets_none():
    stages, screen = shown(terminal=True)
    work(stages)
    assert "5/10" not in screen.getvalue()
    assert "Sweep" in screen.getvalue()


def test_without_a_terminal_there_are_lines_only(monkeypatch):
    monkeypatch.setattr(console, "PATIENCE", 0.0)
    stages, screen = shown(terminal=False)
    stages.say("Reused [bold] names stay as they are")
    work(stages)
    lines = screen.getvalue().splitlines()
    assert lines[0] == "Reused [bold] names stay as they are"
    assert len(lines) == 2
    assert lines[1].split()[0] == "Sweep"
    assert lines[1].endswith(" s")


def test_quiet_shows_nothing_and_warnings_are_shown_always(capsys):
    with console.terminal(quiet=True) as stages:
        stages.say("told")
        work(stages)
        logging.getLogger("hgsp").warning("The stored %s is damaged.", "calibration")
        print("a library prints")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["Warning: The stored calibration is damaged.", "a library prints"]
    assert not [h for h in logging.getLogger("hgsp").handlers if isinstance(h, console._Warnings)]


@pytest.mark.parametrize("make", [monitor.LogMonitor, lambda: shown(terminal=True)[0]], ids=["log", "terminal"])
def test_timings_add_up_also_for_a_stage_inside_another_and_for_one_that_fails(make, caplog):
    stages = make()
    with caplog.at_level(logging.INFO, "hgsp"):
        with stages.stage("Outer"):
            for _ in range(2):
                with stages.stage("Inner"):
                    time.sleep(0.05)
        with pytest.raises(ZeroDivisionError), stages.stage("Fails"):
            raise ZeroDivisionError
    assert set(stages.timings) == {"Outer", "Inner", "Fails"}
    assert 0.1 <= stages.timings["Inner"] <= stages.timings["Outer"]
    assert "Inner: done after" in caplog.text
    assert "Fails: failed after" in caplog.text


def ended(fault, capsys) -> tuple[int, str]:
    """Exit code and message of a command in which `fault` happens."""
    with pytest.raises(SystemExit) as stop, faults.readable_faults():
        fault()
    return stop.value.code, capsys.readouterr().err


def test_a_users_mistake_is_its_message_and_exit_code_2(capsys):
    def mistake():
        raise RecipeError("recipe.yaml: output: this key is required.")

    assert ended(mistake, capsys) == (2, "Error: recipe.yaml: output: this key is required.\n")


@pytest.mark.parametrize("hungry", [lambda: np.empty(1 << 50), lambda: torch.empty(1 << 50)], ids=["numpy", "torch"])
def test_memory_that_runs_out_is_told_with_what_helps(hungry, capsys):
    code, message = ended(hungry, capsys)
    assert code == 2
    assert message.startswith("Error: Out of memory")
    assert "calibrate.batch_size=1" in message
    assert "Traceback" not in message


def test_a_full_disk_is_told_with_what_helps(capsys):
    def full():
        with open("/dev/full", "w") as file:
            file.write("x")

    code, message = ended(full, capsys)
    assert code == 2
    assert "No space left" in message
    assert "--output DIR" in message


def test_a_fault_of_ours_is_one_line_and_a_file_with_the_traceback(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(faults.tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(faults.DEBUG, raising=False)
    code, message = ended(lambda: {}["layer"], capsys)
    (log,) = tmp_path.iterdir()
    assert code == 1
    assert message.startswith("Error: KeyError: 'layer'")
    assert str(log) in message
    assert "Traceback" not in message
    assert "Traceback" in log.read_text()
    monkeypatch.setenv(faults.DEBUG, "1")
    assert "Traceback" in ended(lambda: {}["layer"], capsys)[1]


def test_an_interruption_is_exit_code_130(capsys):
    def interrupted():
        raise KeyboardInterrupt

    code, message = ended(interrupted, capsys)
    assert code == 130
    assert message.startswith("Interrupted.")
    assert "Run the same command again" in message


def test_json_stays_json_where_a_number_is_not_finite(capsys):
    print_json({"perplexity": {"pydoc": float("inf")}, "layers": [float("nan"), 1.5]})

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    given = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert given == {"perplexity": {"pydoc": "inf"}, "layers": ["nan", 1.5]}


def test_what_a_library_prints_without_python_is_not_taken_for_the_result(capfd):
    with console.terminal(quiet=True):
        os.write(1, b"Ignored unknown kwarg option direction\n")
        print("from Python")
    print("the result")
    out, err = capfd.readouterr()
    assert out == "the result\n"
    assert "Ignored unknown" in err
    assert "from Python" in err
