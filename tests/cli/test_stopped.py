"""A command that is stopped says so and how to go on, and leaves nothing half-written; so does one whose disk is full."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.helpers.command import MODEL, ROOT

LONG = {
    "model": {"path": str(MODEL)},
    "calibrate": {"dataset": "pydoc", "samples": 128, "seq_len": 128},
    "score": {"use": "taylor"},
    "allocate": {"use": "uniform", "with": {"ratio": 0.2}},
    "output": "result",
}
SHORT = {**LONG, "calibrate": {"dataset": "pydoc", "samples": 2, "seq_len": 16}, "reconstruct": {"use": "none"}}
FULL = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes}, resource.RLIM_INFINITY))\n"
    "from hgsp_core.cli import main; sys.argv = ['hgsp', {command!r}, 'recipe.yaml', '--quiet']; main()"
)


@pytest.fixture
def here():
    """An empty directory; the store and the temporary files are beside it. Its path is short, as sockets lie below it."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("here", "temporary"):
            Path(folder, name).mkdir()
        yield Path(folder, "here")


def test_a_place_for_temporary_files_whose_path_is_too_long_for_sockets_is_told(here):
    long = here.parent / ("x" * 100)
    long.mkdir()
    (here / "sweep.yaml").write_text(
        yaml.safe_dump({"base": SHORT, "grid": {"allocate.with.ratio": [0.1]}, "output": "sweep"})
    )
    command = [sys.executable, "-m", "hgsp_core", "sweep", "sweep.yaml", "--quiet"]
    done = subprocess.run(
        command, cwd=here, env=environment(here) | {"TMPDIR": str(long)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "too long for the sockets" in done.stderr
    assert "Traceback" not in done.stderr


def environment(here):
    paths = {
        "HGSP_CACHE": str(here.parent / "store"),
        "TMPDIR": str(here.parent / "temporary"),
        "PYTHONPATH": str(ROOT),
    }
    return {**os.environ, **paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def started(here, *arguments):
    """A process in a group of its own, as a terminal starts it."""
    command = [sys.executable, "-m", "hgsp_core", *arguments]
    pipe = subprocess.PIPE
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job's processes would ignore it
    return subprocess.Popen(
        command,
        cwd=here,
        env=environment(here),
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
        preexec_fn=heard,
    )


def wait_until(true, process, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        if process.poll() is not None:
            raise AssertionError(f"it ended: {process.communicate()[1]}")
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.02)


def leftovers(here):
    own = [p.name for p in (here.parent / "temporary").iterdir() if not p.name.startswith("torchinductor")]
    return own + [str(p) for p in here.parent.rglob("*.partial*")]


def check_stopped(process, number):
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + number, ""), err
    lines = err.strip().splitlines()
    assert lines[-1].startswith("Interrupted.")
    assert "the store" in lines[-1]
    assert "Run the same command again" in lines[-1]
    assert "Traceback" not in err
    assert "Exception" not in err
    assert "race" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing_but_what_it_measured(here, number):
    (here / "recipe.yaml").write_text(yaml.safe_dump(LONG))
    process = started(here, "run", "recipe.yaml", "--quiet", "--output", "made/result")
    log = here / "made" / ".result.partial" / "run.log"
    wait_until(lambda: log.exists() and "Sweep: start" in log.read_text(), process)
    os.killpg(process.pid, number)
    time.sleep(0.05)
    os.killpg(process.pid, number)  # an impatient user: what is being cleared away is cleared away all the same
    check_stopped(process, number)
    assert leftovers(here) == []
    assert [p.name for p in here.iterdir()] == ["recipe.yaml"]
    assert list((here.parent / "store" / "calibration").glob("*.safetensors"))


def is_there(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_stops_its_runs(here, number):
    sweep = {"base": LONG, "grid": {"allocate.with.ratio": [0.1, 0.2]}, "output": "sweep"}
    (here / "sweep.yaml").write_text(
        yaml.safe_dump({**sweep, "base": {k: v for k, v in LONG.items() if k != "output"}})
    )
    process = started(here, "sweep", "sweep.yaml", "--quiet")
    store = here.parent / "store" / "calibration"
    wait_until(store.is_dir, process)  # its first process is at work
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    check_stopped(process, number)
    assert leftovers(here) == []
    end = time.monotonic() + 30
    while time.monotonic() < end and is_there(process.pid):
        time.sleep(0.1)
    assert not is_there(process.pid)


def test_a_signal_that_was_ignored_stays_ignored(here):
    code = (
        "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from hgsp_core.runtime.stopping import Stopped, stoppable\n"
        "with stoppable():\n os.kill(os.getpid(), signal.SIGINT)\n"
        "try:\n with stoppable():\n  os.kill(os.getpid(), signal.SIGTERM)\n"
        "except Stopped as stop:\n print(stop.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=here, env=environment(here), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "143\n"), done.stderr


@pytest.mark.parametrize(
    ("command", "most", "told"),
    [
        ("run", 300, "run.log' cannot be created: File too large"),
        ("plan", 100, "Artifacts cannot be written to '{store}': File too large"),
    ],
)
def test_a_disk_that_is_full_is_told_as_that(here, command, most, told):
    (here / "recipe.yaml").write_text(yaml.safe_dump(SHORT))
    done = subprocess.run(
        [sys.executable, "-c", FULL.format(bytes=most, command=command)],
        cwd=here,
        env=environment(here),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert told.format(store=here.parent / "store") in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Logging error" not in done.stderr
    assert leftovers(here) == []
    assert [p.name for p in here.iterdir()] == ["recipe.yaml"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_result_that_nobody_takes_is_an_error(here):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "hgsp_core", "recipe", "schema", "--json"]
        done = subprocess.run(command, cwd=here, env=environment(here), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: No space left on the disk")
    assert done.stderr.count("\n") == 1


def test_a_store_that_is_no_directory_is_known_before_torch_is_imported(here):
    (here / "recipe.yaml").write_text(yaml.safe_dump(SHORT))
    (here.parent / "store").write_text("")
    code = (
        "import sys; sys.argv = ['hgsp', 'run', 'recipe.yaml', '--quiet']\n"
        "from hgsp_core.cli import main\ntry:\n main()\nfinally:\n print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=here, env=environment(here), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "False\n"), done.stderr
    assert "Artifacts cannot be written to" in done.stderr
    assert "is a file, not a directory" in done.stderr
    assert "--cache DIR" in done.stderr
