"""Finished runs side by side: what each gave, and where they cannot be compared.

Only report.json and plan.json are read, so runs of other machines and of plugins that are not installed can be compared too.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from hgsp_core.errors import first_few
from hgsp_core.files import forms
from hgsp_core.files.text import read_object
from hgsp_core.report.contract import Report, Side
from hgsp_core.report.errors import CompareError
from hgsp_core.report.texts import told

#: a run that removed less than this share of its budget did not meet it
MET = 0.97
#: beginnings of stages that make no model
_NOT_PRUNING = ("Prepare evaluation", "Evaluate", "Export", "Report")
#: names of the calibrations of a comparison: A .. Z, then A1 .. Z1 and so on
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#: parts of a perplexity's protocol that follow from the tokenizer, and so differ between models
_OF_TOKENIZER = ("tokens_sha256", "windows", "predicted_tokens")
#: parts of a recipe that a comparison has columns or warnings of their own for, or that change no result
_SHOWN_ELSEWHERE = ("version", "output", "device", "memory", "model.path", "model.weights", "calibrate.batch_size", "evaluate", "export",
                    "score.use", "allocate.use", "allocate.with.ratio", "reconstruct.use", "recover.use")  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A finished run. `report` and `plan` are its report.json and plan.json.

    One of another version may lack what a comparison can do without: that is asked for with `get`.
    """

    name: str
    report: Report
    plan: Mapping[str, Any]

    @property
    def recipe(self) -> Mapping[str, Any]:
        return self.report["recipe"]

    @property
    def model(self) -> str:
        return Path(self.recipe["model"]["path"]).name

    @property
    def dense(self) -> tuple[str, str]:
        """Which original the run is of: the fingerprint of its files, and the dtype."""
        return self.plan["model"]["fingerprint"], self.recipe["model"].get("dtype", "auto")

    @property
    def method(self) -> str:
        """Scorer, allocator and, where there are any, repair and training."""
        uses = [(self.recipe.get(stage) or {}).get("use") for stage in ("score", "allocate", "reconstruct", "recover")]
        return " + ".join(use for use in uses if use not in (None, "none"))

    @property
    def ratio_of(self) -> str:
        """What the ratio is a share of: `total` or `layers`."""
        return self.recipe["allocate"]["with"].get("of") or "total"

    @property
    def asked(self) -> float | None:
        """Requested share to remove, or None if the allocator has no ratio."""
        return self.recipe["allocate"]["with"].get("ratio")

    @property
    def achieved(self) -> float:
        key = "layer_parameters" if self.ratio_of == "layers" else "parameters"
        return 1 - self.report["after"][key] / self.report["before"][key]

    @property
    def met(self) -> bool:
        """Whether (nearly) the requested share was removed."""
        return self.asked is None or self.achieved >= MET * self.asked

    @property
    def seconds(self) -> float:
        """From reading the model to the pruned checkpoint, training included; without evaluation, export and report.

        What was found in the store counts as long as it took to make.
        """
        own = sum(s for stage, s in self.report["timings"].items() if not stage.startswith(_NOT_PRUNING))
        return own + self.report.get("reused_seconds", 0.0)

    @property
    def reused(self) -> list[str]:
        """What the run found in the store, the original's metrics apart."""
        return [name for name in self.report["reused"] if not name.endswith(" of the original")]

    @property
    def calibration(self) -> str | None:
        """sha256 of the calibration tokens, or None where nothing needed any."""
        calibration = self.report["calibration"]
        return calibration["tokens_sha256"] if calibration else None

    @property
    def recovered(self) -> str | None:
        return (self.recipe.get("recover") or {}).get("use")

    def require(self) -> tuple[object, ...]:
        """What every comparison needs; raises what Python raises where a part of it is not there."""
        given = self.dense, self.model, self.method, self.asked, self.achieved
        return *given, self.seconds, self.calibration, self.reused


def load_runs(directories: Sequence[Path]) -> list[Run]:
    """The runs in these directories; the directory of `hgsp sweep` stands for all of its runs.

    Raises:
        CompareError: a directory that is not there, holds no finished run, or whose files are damaged.
    """
    expanded = [run for directory in directories for run in _expanded(directory)]
    unique = {Path(os.path.realpath(directory)): directory for directory in expanded}
    names = Counter(place.name for place in unique)
    return [load_run(d, place.name if names[place.name] == 1 else str(d)) for place, d in unique.items()]


def _expanded(directory: Path) -> list[Path]:
    runs = directory / "runs"
    if runs.is_dir() and not (directory / "report.json").exists():
        return sorted(d for d in runs.iterdir() if d.is_dir() and not d.name.startswith("."))
    return [directory]


def load_run(directory: Path, name: str) -> Run:
    """Raises CompareError where it is no finished run."""
    if not directory.is_dir():
        if directory.with_name(f".{directory.name}.partial").is_dir():
            raise CompareError.unfinished(directory)
        raise CompareError.no_directory(directory)
    report = cast(Report, _read(directory / "report.json", forms.Report))
    run = Run(name, report, _read(directory / "plan.json", forms.PlanFile))
    try:
        run.require()
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise CompareError.incomplete(directory, error) from None
    return run


def _read(path: Path, form: type[forms.Form]) -> dict[str, Any]:
    try:
        content = read_object(path, form)
    except FileNotFoundError:
        raise CompareError.no_file(path) from None
    except ValueError as error:
        raise CompareError.unreadable(path, error) from None
    return {**content, **{side: _numbers(content[side]) for side in ("before", "after") if side in content}}


def _numbers(value: Any) -> Any:
    """The value with infinities as numbers again (see report/json_files.py)."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    return float(value) if value in ("inf", "-inf", "nan") else value


@dataclass(frozen=True)
class Comparison:
    """Runs in the order of the table: by original model, then ratio, then perplexity."""

    runs: tuple[Run, ...]

    @cached_property
    def models(self) -> dict[tuple[str, str], list[Run]]:
        """Original model -> its runs."""
        groups: dict[tuple[str, str], list[Run]] = {}
        for run in self.runs:
            groups.setdefault(run.dense, []).append(run)
        return groups

    @cached_property
    def datasets(self) -> list[str]:
        """Texts that perplexity was measured on; the first one is what runs are judged by."""
        found = Counter(name for run in self.runs for name in run.report["after"].get("perplexity", {}))
        return [name for name, _ in found.most_common()]

    def perplexity(self, run: Run, side: Side = "after") -> float | None:
        """On the text that runs are judged by."""
        return run.report[side].get("perplexity", {}).get(self.datasets[0]) if self.datasets else None

    @cached_property
    def calibrations(self) -> dict[str, str]:
        """Hash of the tokens -> letter, the most frequent first."""
        found = Counter(run.calibration for run in self.runs if run.calibration)
        return {sha: _LETTERS[i % 26] + str(i // 26 or "") for i, (sha, _) in enumerate(found.most_common())}

    @cached_property
    def own_calibration(self) -> frozenset[str]:
        """Names of the runs that were calibrated otherwise than most of their model's runs."""
        names = set()
        for runs in self.models.values():
            shared = _most_common(run.calibration for run in runs if run.calibration)
            names |= {run.name for run in runs if shared and run.calibration not in (None, shared)}
        return frozenset(names)

    @cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Run -> the recipe keys in which it differs from another one that has the key too, without those shown elsewhere."""
        by_run = {run.name: dict(flat(run.recipe)) for run in self.runs}
        values: dict[str, set[str]] = {}
        for keys in by_run.values():
            for key, value in keys.items():
                values.setdefault(key, set()).add(json.dumps(value, sort_keys=True))
        varying = [key for key, seen in values.items() if len(seen) > 1 and not _within(key, _SHOWN_ELSEWHERE)]
        short = short_names(varying)
        return {name: {short[key]: keys[key] for key in varying if key in keys} for name, keys in by_run.items()}

    def best(self) -> Iterator[tuple[str, Run, float]]:
        """(budget, the run of least perplexity, that perplexity) for each model and budget, among the runs that met it."""
        for runs in self.models.values():
            budgets: dict[tuple[float, str], list[tuple[Run, float]]] = {}
            for run in runs:
                perplexity = self.perplexity(run)
                if run.met and perplexity is not None:
                    asked = round(run.achieved, 2) if run.asked is None else run.asked
                    budgets.setdefault((asked, run.ratio_of), []).append((run, perplexity))
            for (asked, of), candidates in sorted(budgets.items()):
                yield f"{asked:.4g} of {of}", *min(candidates, key=lambda candidate: candidate[1])

    @cached_property
    def warnings(self) -> list[str]:
        """Why numbers of these runs may not be laid side by side, most serious first."""
        return [*self._models(), *self._protocols(), *self._calibrations(), *self._trained(), *self._short()]

    def _models(self) -> Iterator[str]:
        paths: dict[str, set[tuple[str, str]]] = {}
        for run in self.runs:
            paths.setdefault(run.recipe["model"]["path"], set()).add(run.dense)
        for path, dense in paths.items():
            if len({fingerprint for fingerprint, _ in dense}) > 1:
                yield f"'{path}' is not the same model in all runs: its files changed in between (fingerprints in plan.json)."
            elif len(dense) > 1:
                yield f"'{path}' was pruned in different dtypes: {', '.join(sorted(d for _, d in dense))}."
        if len(fingerprints := {fingerprint for fingerprint, _ in self.models}) > 1:
            yield f"The runs are of {len(fingerprints)} different models; compare perplexities only with the dense row above them."

    def _protocols(self) -> Iterator[str]:
        differing = set()
        for runs, ignored in [(self.runs, _OF_TOKENIZER), *((group, ()) for group in self.models.values())]:
            seen: dict[str, dict[str, list[Run]]] = {}
            for run in runs:
                for measure, protocol in _protocols_of(run):
                    text = json.dumps({k: v for k, v in protocol.items() if k not in ignored}, sort_keys=True)
                    seen.setdefault(measure, {}).setdefault(text, []).append(run)
            for measure, kinds in seen.items():
                if len(kinds) > 1 and measure not in differing:
                    differing.add(measure)
                    protocols = [json.loads(text) for text in kinds]
                    keys = [k for k in protocols[0] if len({json.dumps(p.get(k)) for p in protocols}) > 1]
                    told = "; ".join(
                        f"{', '.join(f'{k} {_short(p.get(k))}' for k in keys)} ({_names(group)})"
                        for p, group in zip(protocols, kinds.values(), strict=True)
                    )
                    yield f"{measure} was not measured alike: {told}."

    def _calibrations(self) -> Iterator[str]:
        for runs in self.models.values():
            kinds: dict[str, list[Run]] = {}
            for run in runs:
                if run.calibration:
                    kinds.setdefault(run.calibration, []).append(run)
            if len(kinds) < 2:
                continue
            own = [run for run in runs if run.name in self.own_calibration]
            told = "; ".join(
                f"{self.calibrations[sha]}: {describe_calibration(group[0])} ({_names(group)})"
                for sha, group in kinds.items()
            )
            flagged = f" {_names(own)}: settings of {'its' if len(own) == 1 else 'their'} own." if own else ""
            yield f"{runs[0].model} was calibrated on {len(kinds)} different token sets: {told}.{flagged}"

    def _trained(self) -> Iterator[str]:
        trained = [run for run in self.runs if run.recovered]
        if trained and len(trained) < len(self.runs):
            by = sorted({run.recovered for run in trained if run.recovered})
            yield f"{_names(trained)}: trained after the cut ({', '.join(by)}), the others were not."

    def _short(self) -> Iterator[str]:
        for run in self.runs:
            if not run.met:
                yield f"{run.name}: removed {run.achieved:.1%} of {run.ratio_of}, {run.asked:.1%} were asked for."


def comparison(runs: Iterable[Run]) -> Comparison:
    """The runs in order, those of one original together."""
    unordered = Comparison(tuple(runs))
    models = list(unordered.models)

    def place(run: Run) -> tuple[int, str, float, float]:
        perplexity = unordered.perplexity(run)
        asked = round(run.achieved if run.asked is None else run.asked, 4)
        return models.index(run.dense), run.ratio_of, asked, float("inf") if perplexity is None else perplexity

    return Comparison(tuple(sorted(unordered.runs, key=place)))


def describe_calibration(run: Run) -> str:
    c = run.report["calibration"]
    assert c is not None  # only such runs have letters
    return f"{told(c)}, {c['samples']} x {c['seq_len']} tokens, seed {c['seed']}, {c['tokens_sha256'][:8]}"


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Dotted recipe keys -> their shortest endings that tell them apart, without `with`: `calibrate.seed` -> `seed`."""
    parts = {key: [part for part in key.split(".") if part != "with"] or [key] for key in keys}

    def own(key: str, length: int) -> bool:
        return sum(other[-length:] == parts[key][-length:] for other in parts.values()) == 1

    lengths = {key: next((n for n in range(1, len(parts[key]) + 1) if own(key, n)), 0) for key in parts}
    return {key: ".".join(parts[key][-length:]) if length else key for key, length in lengths.items()}


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a recipe; lists as they are."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def _within(key: str, parts: Iterable[str]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def _protocols_of(run: Run) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(measure, how it was measured): one for each name of a metric, or one for the whole metric."""
    for metric, protocol in run.report["after"].items():
        if metric.endswith("_protocol"):
            name = metric.removesuffix("_protocol")
            if all(isinstance(value, Mapping) for value in protocol.values()):
                yield from ((f"{name}, {part}", value) for part, value in protocol.items())
            else:
                yield name, protocol


def _names(runs: Sequence[Run]) -> str:
    return first_few([run.name for run in runs])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def _most_common(values: Iterable[str]) -> str | None:
    """The value that is there more often than any other; None where two are equally frequent."""
    ranked = Counter(values).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]
