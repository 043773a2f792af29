"""Commands that are killed in the middle of a stage: nothing half made is left, and the same command again ends the same."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from . import process
from .case import Case, judged, snapshot
from .material import Material, recipe

#: seconds that a command may take to end after a signal, and to come to a stage
GRACE, PATIENCE = 60.0, 240.0
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
_MEASURING = ("Read model", "Calibrate", "Load", "Sweep", "Plan")


@dataclass(frozen=True)
class Scenario:
    """A command that is killed. `recipe`: what its recipe says; `stages`: all that it goes through; `results`: what it writes."""

    arguments: tuple[str, ...]
    recipe: Mapping[str, Any]
    stages: tuple[str, ...]
    results: tuple[str, ...] = ("out",)


_CUTTING = ("Evaluate original", "Repair", "Cut", "Evaluate pruned", "Export", "Publish", "Report")
_TRAINING = {
    "use": "lora",
    "with": {"epochs": 2, "samples": 48, "batch_size": 8, "dataset": "text.txt", "records": {"seq_len": 16}},
}
_DEFAULT = {"allocate": {"with": {"ratio": 0.15}}}
_FINETUNE = (
    "--data_path",
    "text.txt",
    "--num_epochs",
    "4",
    "--max_samples",
    "48",
    "--batch_size",
    "8",
    "--seq_len",
    "16",
)
SCENARIOS = {
    "run": Scenario(
        ("run", "recipe.yaml"),
        {**_DEFAULT, "recover": _TRAINING, "export": [{"use": "huggingface"}, {"use": "gguf"}]},
        ("Evaluate (prepare)", "Recover (prepare)", *_MEASURING, "Recover", *_CUTTING),
    ),
    "streamed run": Scenario(
        ("run", "recipe.yaml"),
        {
            "iterative_steps": 2,
            "memory": "disk",
            "allocate": {"use": "uniform", "with": {"ratio": 0.1}},
            "export": [{"use": "huggingface"}],
        },
        ("Evaluate (prepare)", *_MEASURING, *_CUTTING),
    ),
    "plan": Scenario(("plan", "recipe.yaml", "--json"), _DEFAULT, _MEASURING, ()),
    "finetune": Scenario(("finetune", "run", *_FINETUNE, "--output_dir", "out"), {}, ("Recover", "Verify")),
    "eval": Scenario(
        ("eval", "run", "--dataset", "text.txt", "--seq_len", "16", "-o", "out.json"), {}, ("Evaluate (prepare)", "Evaluate"), ("out.json",)
    ),
    "export": Scenario(("export", "run", "--to", "huggingface", "-o", "out"), {}, ("Load", "Export", "Publish")),
    "sweep": Scenario(
        ("sweep", "sweep.yaml", "--jobs", "2"),
        {"export": [{"use": "huggingface"}]},
        ("Runs", *(f"Runs/{stage}" for stage in ("Evaluate (prepare)", *_MEASURING, *_CUTTING)), "Compare"),
    ),
}  # fmt: skip


class Unsound(Exception):
    """A scenario that does not even end well where nobody kills it."""


#: every stage of every scenario
PLACES = [(name, stage) for name, scenario in SCENARIOS.items() for stage in scenario.stages]


def case(case: Case, random: Random, material: Material) -> None:
    """One stage, one signal. The cases go round all stages before one comes again, and round all scenarios from the first."""
    seed, number = case.seed, int(case.name.rpartition("-")[2])
    order = _places(Random(f"{seed}:places"))
    name, stage = order[number % len(order)]
    number_of_signal = SIGNALS[(number + number // len(order)) % len(SIGNALS)]
    scenario = SCENARIOS[name]
    try:
        sound, times = _undisturbed(name, material)
    except Unsound as error:
        case.add("sound input fails", name, str(error))
        return
    _lay_out(case.input, scenario, material)
    share, group = random.random(), random.random() < 0.5
    case.said.append(
        f"{name}: {number_of_signal.name} at {share:.0%} of '{stage}'{' to all its processes' if group else ''}"
    )
    before = snapshot(case.input)
    delay = share * random.choice([length for place, _, length in times if place == stage] or [0.0])
    ended = _kill(case, scenario, stage, delay, number_of_signal, group)
    after = snapshot(case.input)
    if ended.code is None:
        return
    asked = number_of_signal != signal.SIGKILL
    for path in sorted({*before, *after}):
        kept = (asked and _may_stay(path, scenario, ended.code)) or (not asked and _may_stay_killed(path, scenario))
        if not kept and before.get(path) != after.get(path):
            case.add(
                "left after a signal" if path not in before else "changed input",
                f"{name} {number_of_signal.name}",
                str(path),
            )
    shutil.rmtree(case.scratch / "tmp", ignore_errors=True)
    if scenario.results and (case.input / scenario.results[0]).exists() and name != "sweep":
        _same(case, name, sound, "what it left under the final name")
        return
    again = process.hgsp(scenario.arguments, case.input, case.scratch)
    case.commands.append("the same again")
    case.codes.append(again.code)
    case.faults += judged(again, (0,), case.scratch / "tmp")
    if again.code == 0:
        (case.input / "said.json").write_text(again.out, encoding="utf-8")
        _same(case, name, sound, "the same command again")
    for path in case.input.rglob("*.partial"):
        case.add("left after it ran again", name, str(path.relative_to(case.input)))


def _places(random: Random) -> list[tuple[str, str]]:
    """All places, by chance: of each scenario the first one, then of each the second, ..."""
    turns: Counter[str] = Counter()
    turn_of: dict[tuple[str, str], int] = {}
    for name, stage in random.sample(PLACES, len(PLACES)):
        turn_of[name, stage] = turns[name]
        turns[name] += 1
    return sorted(turn_of, key=turn_of.__getitem__)


def _undisturbed(name: str, material: Material) -> tuple[Path, list[tuple[str, float, float]]]:
    """The input folder of a scenario that ended well, and when its stages began and how long they took. Made once.

    Raises Unsound where it did not end well, or went through other stages.
    """
    folder, scenario = material.folder / "undisturbed" / name.replace(" ", "-"), SCENARIOS[name]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "times.json").is_file():
            shutil.rmtree(folder / "in", ignore_errors=True)  # of a try that did not end well
            (folder / "stages").unlink(missing_ok=True)
            _lay_out(folder / "in", scenario, material)
            log = folder / "stages"
            start = time.monotonic()
            done = process.in_child(
                partial(_main, scenario.arguments, log), folder / "in", folder / "scratch", scenario.arguments, PATIENCE
            )
            if done.code != 0:
                raise Unsound(f"{name} undisturbed: exit code {done.code}\n{done.text[-2000:]}")
            (folder / "in" / "said.json").write_text(done.out, encoding="utf-8")
            began = [
                (place, float(at) - start)
                for at, _, place in (line.partition(" ") for line in log.read_text().splitlines())
            ]
            if missing := {place for place, _ in began} ^ set(scenario.stages):
                raise Unsound(
                    f"{name}: the stages of the scenario are others than those of the command: {sorted(missing)}"
                )
            ends = [at for _, at in began[1:]] + [done.seconds]
            times = [(place, at, max(end - at, 0.0)) for (place, at), end in zip(began, ends, strict=True)]
            (folder / "times.json").write_text(json.dumps(times), encoding="utf-8")
    return folder / "in", [tuple(entry) for entry in json.loads((folder / "times.json").read_text(encoding="utf-8"))]


def _lay_out(folder: Path, scenario: Scenario, material: Material) -> None:
    folder.mkdir(parents=True)
    (folder / "text.txt").write_bytes(material.text.read_bytes())
    shutil.copytree(material.dense("llama"), folder / "model")
    written = recipe("model", **scenario.recipe)
    written["model"]["weights"] = "streamed" if scenario.recipe.get("memory") else "auto"
    (folder / "recipe.yaml").write_text(json.dumps(written), encoding="utf-8")
    if "run" in scenario.arguments[1:]:
        shutil.copytree(material.run("layered"), folder / "run")
    if scenario.arguments[0] == "sweep":
        grid = {"version": 1, "base": written, "grid": {"allocate.with.ratio": [0.1, 0.15]}, "output": "out"}
        (folder / "sweep.yaml").write_text(json.dumps(grid), encoding="utf-8")


def _main(arguments: tuple[str, ...], log: Path) -> None:
    """`hgsp ARGUMENTS`, which writes the time and name of each stage as it begins."""
    import sys

    from hgsp_core.cli import main
    from hgsp_core.runtime import monitor
    from hgsp_core.sweeps.run import Listener
    from hgsp_core.sweeps.work import Told

    timed, hear = monitor.timed, Listener.hear
    file = log.open("a", encoding="utf-8", buffering=1)

    @contextlib.contextmanager
    def told(name: str, timings: dict[str, float]) -> Iterator[None]:
        if arguments[0] != "sweep" or name in ("Runs", "Compare"):
            file.write(f"{time.monotonic()} {name}\n")
        with timed(name, timings):
            yield

    def heard(self, task, message: Told) -> None:
        if not isinstance(message, str) and message[1:] == (0, 0):
            file.write(f"{time.monotonic()} Runs/{message[0]}\n")
        hear(self, task, message)

    monitor.timed, Listener.hear = told, heard
    sys.argv = ["hgsp", *arguments]
    main()


def _kill(
    case: Case, scenario: Scenario, stage: str, delay: float, number: signal.Signals, group: bool
) -> process.Outcome:
    """Start the command, send the signal `delay` seconds into the stage, and judge how the command ended."""
    log, start = case.folder / "stages", time.monotonic()
    log.touch()
    pid = process.start_child(partial(_main, scenario.arguments, log), case.input, case.scratch, forks=False)
    case.commands.append("hgsp " + " ".join(scenario.arguments))
    ended = partial(os.waitpid, pid, os.WNOHANG)
    status = _until(
        lambda: stage in (line.partition(" ")[2] for line in log.read_text(encoding="utf-8").splitlines()),
        ended,
        PATIENCE,
    )
    if status is None:
        time.sleep(delay)
        # a terminal's Ctrl-C reaches all processes of the command, `kill` one, the system's shortage of memory one
        if number == signal.SIGINT or (number == signal.SIGTERM and group):
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
        status = _until(lambda: False, ended, GRACE)
    code = None if status is None else os.waitstatus_to_exitcode(status)
    text = [(case.scratch / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err")]
    outcome = process.Outcome((*scenario.arguments,), code, *text, time.monotonic() - start)
    case.codes.append(code)
    wanted = {signal.SIGKILL: (0, -9), signal.SIGINT: (0, 130), signal.SIGTERM: (0, 143)}[number]
    if number != signal.SIGKILL:
        case.faults += judged(outcome, wanted, case.scratch / "tmp")
        if code not in (0, None) and "Interrupted" not in outcome.err:
            case.add("no message", f"{scenario.arguments[0]} {number.name}", outcome.err[-500:])
    elif code is None:
        case.add("hang", scenario.arguments[0], "alive after SIGKILL")
    if code is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return outcome


def _until(holds: Callable[[], bool], ended: Callable[[], tuple[int, int]], seconds: float) -> int | None:
    """Wait until it holds; the status of the process where that ends before."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        pid, status = ended()
        if pid:
            return status
        if holds():
            return None
        time.sleep(0.001)
    return None


def _may_stay(path: Path, scenario: Scenario, code: int) -> bool:
    """What a command that was asked to end may leave: of a sweep, the runs that are whole; else only its whole result."""
    if scenario.arguments[0] == "sweep":
        return path.parts[0] == "out" and not any(part.endswith(".partial") for part in path.parts)
    return code == 0 and path.parts[0] in scenario.results


def _may_stay_killed(path: Path, scenario: Scenario) -> bool:
    """What a command that could do nothing any more may leave: its working directory too."""
    return path.parts[0] in scenario.results or any(path.parts[0] == f".{name}.partial" for name in scenario.results)


def _same(case: Case, name: str, sound: Path, what: str) -> None:
    """What is there is what an undisturbed run gives."""
    here, there = _meaning(case.input, name), _meaning(sound, name)
    if different := sorted(key for key in {*here, *there} if here.get(key) != there.get(key)):
        case.add("another result", f"{name}: {what}", ", ".join(map(str, different[:8])))


def _meaning(folder: Path, name: str) -> dict[str, Any]:
    """What must not differ between runs of one command; pages, cards and records tell times and places, which do."""
    if name == "plan":
        return json.loads((folder / "said.json").read_text(encoding="utf-8"))["plan"]
    if name == "eval":
        return json.loads((folder / "out.json").read_text(encoding="utf-8"))["after"]
    named = ("plan.json", "config.json", "tokenizer.json")
    files = [p for p in sorted((folder / "out").rglob("*")) if p.name in named or p.suffix in (".safetensors", ".gguf")]
    found: dict[str, Any] = {str(p.relative_to(folder)): p.read_bytes() for p in files if p.is_file()}
    if name == "sweep":
        found["comparison"] = (folder / "out" / "comparison.md").is_file()
    return found
