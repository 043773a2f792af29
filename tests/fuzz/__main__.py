"""The campaigns: `python -m tests.fuzz --seed 1`. Exit code 1 where a case has a fault."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

from . import process

#: campaign -> cases of `make fuzz`
CASES = {"recipes": 10_000, "checkpoints": 800, "pruned": 600, "runs": 600, "kills": 60}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    os.environ.update(process.ENVIRONMENT)
    folder = Path(options.keep or tempfile.mkdtemp(prefix="hgsp-fuzz-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["HF_HOME"] = os.environ["HOME"] = str(folder / "home")
    start = time.monotonic()
    process.warm_up()

    from . import campaigns
    from .material import make

    material = make(folder / "material")
    print(f"seed {options.seed}: {time.monotonic() - start:.0f} s to get ready", flush=True)
    found: list[campaigns.Verdict] = []
    for name in CASES:
        numbers = range(getattr(options, name))
        if options.only:
            wanted, _, number = options.only.partition(":")
            numbers = [int(number)] if wanted == name else []
        if numbers:
            found += _campaign(campaigns.Campaign(name, options.seed, material, folder), numbers, options.jobs)
    faults = [verdict for verdict in found if verdict.faults]
    if not faults and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(found)} cases, {len(faults)} with faults, in {time.monotonic() - start:.0f} s")
    if faults:
        _tell(faults, options.seed, folder)
    return 1 if faults else 0


def _campaign(campaign: Callable, numbers: Sequence[int], jobs: int) -> list:
    start, found, known = time.monotonic(), [], set()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
        for verdict in pool.map(campaign, numbers):
            found.append(verdict)
            for fault in verdict.faults:
                if (fault.kind, fault.signature) not in known:
                    known.add((fault.kind, fault.signature))
                    print(f"  {verdict.campaign}:{verdict.number}: {fault.kind}: {fault.signature}", flush=True)
            if len(found) % 500 == 0:
                print(f"  {campaign.name}: {len(found)} cases", flush=True)
    faults = sum(bool(v.faults) for v in found)
    codes = Counter(code for v in found for code in v.codes)
    ended = ", ".join(f"{count} with {code}" for code, count in sorted(codes.items(), key=str))
    print(
        f"{campaign.name}: {len(found)} cases, {faults} with faults; commands ended: {ended}; {time.monotonic() - start:.0f} s",
        flush=True,
    )
    return found


def _tell(verdicts: Sequence, seed: int, folder: Path) -> None:
    """Each fault once, the most frequent first, with its first case."""
    by_kind: dict[tuple[str, str], list] = {}
    for verdict in verdicts:
        for fault in verdict.faults:
            by_kind.setdefault((fault.kind, fault.signature), []).append((verdict, fault))
    for (kind, signature), cases in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        verdict, fault = min(cases, key=lambda pair: pair[0].number)
        print(f"\n{kind}: {signature} ({len(cases)} times)")
        print(
            f"  again: python -m tests.fuzz --seed {seed} --only {verdict.campaign}:{verdict.number}    files: {verdict.folder}"
        )
        print(f"  input: {'; '.join(verdict.said)[:400]}")
        print(f"  {' && '.join(verdict.commands)[:400]}")
        print("    " + "\n    ".join(fault.detail.strip().splitlines()[-12:]))
    print(f"\nThe cases are in {folder}.")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--seed",
        type=int,
        default=Random().randrange(10**6),
        help="of all that is drawn; by default another one each time",
    )
    for name, cases in CASES.items():
        parser.add_argument(f"--{name}", type=int, default=cases, metavar="N", help=f"cases; {cases} by default")
    parser.add_argument("--only", metavar="CAMPAIGN:N", help="this one case")
    parser.add_argument(
        "--keep", metavar="DIR", help="keep all files here; otherwise those of cases with faults are kept"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
