"""One case: a folder of input, commands on it, and what every command must hold to, whatever it is given."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import process
from .process import PATIENCE, Outcome

#: what a message may take
LINES, CHARACTERS = 40, 4_000
#: what no user should read
INTERNAL = (
    "Traceback (most recent call last)",
    "--- Logging error ---",
    "This is a fault of hgsp",
    "Exception ignored",
    "Fatal Python error",
)
#: words of Python's own messages, which name neither the input nor the fix
RAW = re.compile(
    r"(object (is not|has no|does not|cannot)|unexpected keyword|required positional|not subscriptable|index out of range"
    r"|unsupported operand|unhashable|not supported between|'NoneType' object|invalid literal for|0x[0-9a-f]{10}|is not iterable)"
)
#: warnings of our own code; libraries warn their developers as they like
WARNED = re.compile(r"(?:hgsp_\w+|plugins)/\S+\.py:\d+: (\w*Warning): ")
MEMORY = re.compile(r"Out of memory")
FRAME = re.compile(r'File "[^"]*?((?:hgsp_\w+|plugins/\w+)/[^"]*)", line \d+, in (\S+)')
THROWN = re.compile(
    r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Warning|Exit|Overflow|NotFound\w*))\b", re.MULTILINE
)


@dataclass(frozen=True)
class Fault:
    """kind: what was not held;  signature: what makes two faults the same one;  detail: for the reader."""

    kind: str
    signature: str
    detail: str


@dataclass
class Case:
    """`folder/in` is the input and the current directory of the commands; what they write of their own is in `folder/scratch`."""

    name: str
    seed: int
    folder: Path
    said: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    codes: list[int | None] = field(default_factory=list)

    @property
    def input(self) -> Path:
        return self.folder / "in"

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def run(
        self,
        *arguments: object,
        results: tuple[str, ...] = (),
        codes: tuple[int, ...] = (0, 2),
        patience: float = PATIENCE,
    ) -> Outcome:
        """Run `hgsp` and judge how it ended. `results`: what it may leave in the input folder where it succeeds."""
        before = snapshot(self.input)
        outcome = process.hgsp(arguments, self.input, self.scratch, patience)
        self.commands.append("hgsp " + " ".join(outcome.arguments))
        self.codes.append(outcome.code)
        self.faults += judged(outcome, codes, self.scratch / "tmp")
        after = snapshot(self.input)
        allowed = results if outcome.code == 0 else ()
        for path in sorted({*before, *after}):
            if path.parts[:1] and path.parts[0] in allowed:
                continue
            if path not in before:
                self.add("leftover", _command(outcome), f"{path} appeared (exit code {outcome.code})")
            elif after.get(path) != before[path]:
                self.add("changed input", _command(outcome), f"{path} {'changed' if path in after else 'is gone'}")
        self.clean_up()
        return outcome

    def add(self, kind: str, signature: str, detail: str) -> None:
        self.faults.append(Fault(kind, signature, detail))

    def clean_up(self) -> None:
        """Forget the temporary files, so that the next command is judged by its own."""
        shutil.rmtree(self.scratch / "tmp", ignore_errors=True)


def judged(outcome: Outcome, codes: tuple[int, ...], temporary: Path) -> Iterator[Fault]:
    """What can be said by how it ended and what it printed."""
    command, tail = _command(outcome), outcome.text[-1500:]
    if outcome.code is None:
        yield Fault("hang", command, f"still at work after {outcome.seconds:.0f} s\n{tail}")
        return
    logs = sorted(temporary.glob("hgsp-*.log")) if temporary.is_dir() else []
    trace = "".join(log.read_text(encoding="utf-8", errors="replace") for log in logs) or outcome.text
    left = sorted(p.name for p in temporary.iterdir() if p not in logs) if temporary.is_dir() else []
    if outcome.code not in codes:
        yield Fault("exit code", f"{outcome.code} {command} {where(trace)}", trace[-3000:])
    elif any(word in outcome.text for word in INTERNAL):
        yield Fault("internal text", f"{command} {where(trace)}", tail)
    if left:
        yield Fault("temporary files", f"{command} exit code {outcome.code}", ", ".join(left[:5]))
    for warned in sorted(set(WARNED.findall(outcome.text))):
        yield Fault("python warning", f"{command} {warned} {where(outcome.text)}", tail)
    if outcome.code != 2:
        return
    if outcome.out and command != "recipe":
        yield Fault("stdout of a refusal", command, outcome.out[-500:])
    if len(outcome.err) > CHARACTERS or outcome.err.count("\n") > LINES:
        yield Fault(
            "long message",
            f"{command} {shape(outcome.err).rpartition(': ')[2][:40]}",
            f"{len(outcome.err)} characters: {outcome.err[:300]}",
        )
    if not re.search(r"Error: |Usage: |Error ─|valid", outcome.text):
        yield Fault("no message", command, tail)
    if MEMORY.search(outcome.err):
        yield Fault("memory", f"{command} {shape(outcome.err)}", tail)
    if (raw := RAW.search(outcome.err)) and not re.search(
        r"Check the values in (config.json|its files)", outcome.err
    ):  # transformers' own words, and whose
        yield Fault("raw message", f"{command} {raw.group()} {shape(outcome.err)}", tail)


def where(trace: str) -> str:
    """The last frame of the project and the exception: what makes two tracebacks the same fault."""
    frames, thrown = FRAME.findall(trace), THROWN.findall(trace)
    place = " in ".join(frames[-1]) if frames else "?"
    return f"{thrown[-1] if thrown else '?'} at {place}"


def shape(message: str) -> str:
    """A message without what differs from case to case."""
    text = (message.partition("Error: ")[2] or message).partition("(given")[0]
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*", "_", text)
    return re.sub(r"[-+]?\d[\d.,]*", "N", " ".join(text.split()))[:90]


def _command(outcome: Outcome) -> str:
    return outcome.arguments[0] if outcome.arguments else "?"


def snapshot(folder: Path) -> dict[Path, tuple]:
    """Everything below a folder, as it is now."""
    found: dict[Path, tuple] = {}
    for root, directories, files in os.walk(folder):
        for name in (*directories, *files):
            path = Path(root, name)
            info = path.lstat()
            content: object = None
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                content = hashlib.blake2b(path.read_bytes()).digest()
            found[path.relative_to(folder)] = (stat.S_IFMT(info.st_mode), content)
    return found
