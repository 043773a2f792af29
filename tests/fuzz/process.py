"""`hgsp` in a forked process: everything is imported once, so that a case costs milliseconds and not seconds."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from hgsp_core.plugin import registry

#: seconds after which a command counts as hanging, and bytes that it may take beyond what the libraries do
PATIENCE, MEMORY = 240.0, 4 * 10**9
#: what the libraries read when they are imported
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "MPLBACKEND": "agg",
    "COLUMNS": "120",
}


@dataclass(frozen=True)
class Outcome:
    """How a command ended. `code` is None where it had to be killed, negative where a signal ended it."""

    arguments: tuple[str, ...]
    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        return self.out + self.err


def warm_up() -> None:
    """Import all that the commands import."""
    import lm_eval  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import peft  # noqa: F401
    import torch
    from datasets import Dataset  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401

    torch.set_num_threads(1)
    for entry in registry.installed().entries:
        if entry.kind != "architecture":
            import_module(entry.declared.target.partition(":")[0])
    gc.freeze()  # what is there is never looked at again, so the children share its memory


def hgsp(arguments: Sequence[object], cwd: Path, scratch: Path, patience: float = PATIENCE) -> Outcome:
    """Run `hgsp ARGUMENTS` in `cwd`; the store, temporary files and what it prints are in `scratch`."""
    from hgsp_core.cli import main

    words = tuple(map(str, arguments))

    def body() -> None:
        sys.argv = ["hgsp", *words]
        main()

    return in_child(body, cwd, scratch, words, patience)


def in_child(
    body: Callable[[], object], cwd: Path, scratch: Path, arguments: tuple[str, ...] = (), patience: float = PATIENCE
) -> Outcome:
    """Call `body` in a forked process as if it were the main program."""
    pid, start = start_child(body, cwd, scratch), time.monotonic()
    status, pause = None, 0.0005
    while status is None and time.monotonic() - start < patience:
        ended, found = os.waitpid(pid, os.WNOHANG)
        if ended:
            status = found
        else:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # what it may have left running, too
    code = None
    if status is None:
        os.waitpid(pid, 0)
    else:
        code = os.waitstatus_to_exitcode(status)
    out, err = ((scratch / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    return Outcome(arguments, code, out, err, time.monotonic() - start)


def start_child(body: Callable[[], object], cwd: Path, scratch: Path, forks: bool = True) -> int:
    """The id of a forked process, head of a group of its own, that calls `body`. `forks`: as in `_forked_run`."""
    for name in ("tmp", "store", "modules"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            _settle(cwd, scratch)
            subprocess.run = _forked_run if forks else _run
            code = _called(body)
        finally:
            os._exit(code)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    return pid


def _settle(cwd: Path, scratch: Path) -> None:
    """Make the forked process look like one that was started in `cwd`."""
    import tempfile
    import weakref

    from transformers import dynamic_module_utils

    weakref.finalize._registry.clear()  # temporary directories of the process that this one was forked from
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    for number, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, scratch / "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, scratch / "err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        opened = os.open(name, flags, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        mode = "r" if name == "stdin" else "w"
        stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
    os.chdir(cwd)
    tempfile.tempdir = None
    places = {"TMPDIR": "tmp", "HGSP_CACHE": "store", "HF_MODULES_CACHE": "modules"}
    os.environ.update({key: str(scratch / name) for key, name in places.items()})
    dynamic_module_utils.HF_MODULES_CACHE = str(scratch / "modules")
    if Path("/proc/self/statm").is_file():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _called(body: Callable[[], object]) -> int:
    """The exit code of a main program."""
    try:
        body()
        code: object = 0
    except SystemExit as stop:
        code = stop.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0 if code is None else 1


_run = subprocess.run


def _forked_run(command: Sequence[object], **how):
    """`subprocess.run` of a command, but another Python is a fork of this one: the same code without the seconds of its imports."""
    words = list(map(str, command))
    flags = next((i for i, word in enumerate(words) if word in ("-c", "-m")), None)
    if words[0] != sys.executable or flags is None or not how.get("capture_output"):
        return _run(command, **how)
    import tempfile

    kind, program, arguments = words[flags], words[flags + 1], words[flags + 2 :]
    with tempfile.TemporaryDirectory(prefix="fuzz-python-", dir=os.environ["HGSP_CACHE"]) as folder:
        work = Path(folder)

        def body() -> None:
            os.environ.clear()
            os.environ.update(how.get("env") or ENVIRONMENT)
            sys.argv = [program if kind == "-m" else "-c", *arguments]
            if kind == "-m":
                sys.modules.pop(program, None)
                runpy.run_module(program, run_name="__main__", alter_sys=True)
            else:
                exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})

        outcome = in_child(body, Path(how.get("cwd") or os.getcwd()), work)
    code = -signal.SIGKILL if outcome.code is None else outcome.code
    return subprocess.CompletedProcess(command, code, outcome.out, outcome.err)
