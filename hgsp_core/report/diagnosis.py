"""Diagnosis of a run: whether layers are pruned too much, why, and which recipe lines repair it.

The usual cause of "extreme pruning" is scores on different scales: where the gradients of one layer are a thousand times those
of another, a ranking over all layers together empties the second, however useful its units are. A repair is not guessed: each
candidate of the choice guide is allocated on the scores of this very run, and the first that is healthy is suggested.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from hgsp_core.artifacts import Plan, Scores
from hgsp_core.artifacts.scales import Scales
from hgsp_core.errors import HgspError
from hgsp_core.files import forms
from hgsp_core.files.text import read_object
from hgsp_core.files.yaml_data import in_yaml
from hgsp_core.model.layout import Layout
from hgsp_core.report.contract import Check, Diagnosis, Finding, Repaired, SuggestedRepair
from hgsp_core.report.errors import DiagnosisError
from hgsp_core.report.outcome import rates
from hgsp_core.runtime.recipe import Recipe, parse_recipe

FILE = "gradient_diagnosis.json"
#: a layer with a larger removed share is pruned extremely
EXTREME = 0.5
#: the layers at the input, on which all others build
FIRST = 5
#: largest share of the layers that may be extreme
MANY = 0.2
#: layer means of gradients that differ more than this are of another scale; more than the second, of a very different one
UNEVEN, FAR_APART = 100.0, 1000.0
#: healthy runs have fewer extreme layers and less spread between layers; EARLY are layers 2 to 4
FEW, SPREAD, EARLY = 3, 0.3, slice(2, 5)

_MINMAX = [{"use": "minmax"}]
_CAPPED = "allocate.with.limits.layer_max_rate=0.45"

#: recipe -> the scores that the allocator is given, and its plan; from what was measured already
Replan = Callable[[Recipe], tuple[Scores, Plan]]


def ratio(values: np.ndarray) -> float:
    """Largest / smallest; infinite where only some are 0, and 1 where all are. NaN does not count."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return 1.0 if high == 0 else np.inf if low == 0 else high / low


def diagnose(
    recipe: Recipe, layout: Layout, plan: Plan, scores: Scores, scales: Scales, replan: Replan, comparable: bool = False
) -> Diagnosis:
    """The content of gradient_diagnosis.json.

    Args:
        scores: as the allocator was given them.
        replan: called only where something is to be repaired, and then once for each candidate.
        comparable: scores of all layers have the same unit, so a difference in scale is no fault.
    """
    state, mean_ratio = State.of(rates(layout, plan), scores), ratio(scales.mean)
    uneven = mean_ratio > UNEVEN and state.balance > UNEVEN and not state.whole_layers
    suffers = uneven and not comparable and compares_layers(recipe, layout, state, replan)
    faults = list(find_faults(state, scales, suffers))
    settings = candidates(recipe, mean_ratio, len(state.extreme), comparable)
    repair = find_repair(recipe, layout, state, faults, settings, replan)
    columns = [c.tolist() for c in (scales.mean, scales.std, scales.norm, scales.max, scales.min, state.rates)]
    return {
        "source": scales.source,
        "what": scales.what,
        "mean_ratio": mean_ratio,
        "norm_ratio": ratio(scales.norm),
        "extreme_layers": state.extreme,
        "num_extreme_layers": len(state.extreme),
        "spread": state.spread,
        "checks": checks(state, mean_ratio),
        "findings": [finding(fault, recipe, repair) for fault in faults],
        "layers": [
            {"layer": i, "mean": mean, "std": std, "norm": norm, "max": largest, "min": smallest, "removed": removed}
            for i, (mean, std, norm, largest, smallest, removed) in enumerate(zip(*columns, strict=True))
        ],
    }


@dataclass(frozen=True)
class State:
    """What a plan does to the layers. `rates` [layers]; `balance`: deviations of scores inside layers, largest / smallest."""

    rates: np.ndarray
    balance: float

    @classmethod
    def of(cls, rates: np.ndarray, scores: Scores) -> State:
        deviations = [scores.score[scores.layer == i].std() for i in np.unique(scores.layer)]
        return cls(rates, ratio(np.array(deviations)))

    @property
    def extreme(self) -> list[int]:
        return np.flatnonzero(self.rates > EXTREME).tolist()

    @property
    def spread(self) -> float:
        return float(self.rates.max() - self.rates.min())

    @property
    def whole_layers(self) -> bool:
        """Only entire layers are removed: on purpose, not because their units lost a ranking."""
        return bool(((self.rates == 0) | (self.rates == 1)).all())


def checks(state: State, mean_ratio: float) -> list[Check]:
    """What a healthy run looks like, and whether this one does."""
    early = float(state.rates[EARLY].max(initial=0.0))
    return [
        _check("layers 2 to 4: less than half removed", "share", early, EXTREME),
        _check("most and least pruned layers: less than 30 points apart", "points", state.spread, SPREAD),
        _check("scales of layers: differ by a factor below 100", "times", mean_ratio, UNEVEN),
        _check("layers with more than half removed: fewer than 3", "layers", len(state.extreme), FEW),
    ]


def _check(text: str, unit: str, value: float, limit: float) -> Check:
    return {"check": text, "unit": unit, "value": value, "limit": limit, "ok": value < limit}


def check_value(check: Check) -> str:
    """The value of a check as people read it: 34%, 30 points, 1,240 times, 3."""
    value = float(check["value"])  # infinity stands in JSON as text
    match check["unit"]:
        case "share":
            return f"{value:.0%}"
        case "points":
            return f"{100 * value:.0f} points"
        case "times":
            return _times(value)
    return f"{value:.0f}"


def repair_text(repair: SuggestedRepair) -> str:
    """What the lines of a finding's repair do, in a sentence or two."""
    then = repair["then"]
    count = then["num_extreme_layers"]
    layers = "no layer is" if count == 0 else "one layer is" if count == 1 else f"{count} layers are"
    verdict = "These recipe lines repair it"
    if not repair["repairs"]:
        verdict = "None of the settings tried repairs everything; these recipe lines come closest"
    return (
        f"{verdict}. With them, on the scores of this run, {layers} pruned by more than half, and layers 2 to 4 by at most "
        f"{then['layers_2_to_4_lose_at_most']:.0%}. Compare the perplexity of both runs."
    )


def repair_options(repair: SuggestedRepair) -> str:
    """The lines as options of `hgsp run`, quoted for a shell."""
    return " ".join(f"--set {shlex.quote(setting)}" for setting in repair["set"])


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a state: `holds` tells whether it is wrong with another one, too."""

    kind: str
    severity: str
    layers: tuple[int, ...]
    title: str
    text: str

    def holds(self, state: State) -> bool:
        if self.kind == "scale":
            return state.balance > UNEVEN
        if self.kind == "many-extreme":
            return len(state.extreme) > MANY * len(state.rates)
        return any(i < FIRST for i in state.extreme)


def compares_layers(recipe: Recipe, layout: Layout, state: State, replan: Replan) -> bool:
    """Whether the layers' rates depend on the balance of scores between them: not where each layer's rate is set apart."""
    try:
        _, plan = replan(apply(recipe, [f"normalize={in_yaml(_MINMAX)}"]))
    except HgspError:
        return True
    return not np.allclose(rates(layout, plan), state.rates)


def find_faults(state: State, scales: Scales, suffers: bool) -> Iterator[Fault]:
    """Worst first. suffers: the plan is another one for the difference in scale."""
    if not state.whole_layers:
        yield from _extreme_faults(state)
    mean_ratio = ratio(scales.mean)
    if mean_ratio <= UNEVEN:
        return
    high, low = int(np.nanargmax(scales.mean)), int(np.nanargmin(scales.mean))
    text = f"{scales.source.capitalize()} are {_times(mean_ratio)} as large in layer {high} as in layer {low}. "
    if suffers:
        severity = "high" if mean_ratio > FAR_APART else "medium"
        then = "All layers are ranked together, so units of layers with a small scale are removed first, however useful they are."
    else:
        severity, then = "note", "This allocation does not depend on it."
    yield Fault("scale", severity, (high, low), "The layers differ in scale", text + then)


def _extreme_faults(state: State) -> Iterator[Fault]:
    extreme = state.extreme
    early = tuple(i for i in extreme if i < FIRST)
    if early:
        lost = ", ".join(f"layer {i} {state.rates[i]:.0%}" for i in early)
        yield Fault(
            "early-extreme",
            "critical",
            early,
            "More than half of early layers removed",
            f"The plan removes more than half of the parameters of these layers among the first {FIRST}: {lost}. "
            "All later layers depend on their output; deep models rarely recover from this.",
        )
    if len(extreme) > MANY * len(state.rates):
        yield Fault(
            "many-extreme",
            "high",
            tuple(extreme),
            "More than half of many layers removed",
            f"The plan removes more than half of the parameters of {len(extreme)} of {len(state.rates)} layers, and few or none "
            "of the others.",
        )


@dataclass(frozen=True)
class Repair:
    """Settings of the recipe, as `--set` takes them, the state that they led to, and the faults left."""

    settings: tuple[str, ...]
    state: State
    left: tuple[str, ...]

    def lines(self, recipe: Recipe) -> str:
        """The settings as lines of YAML, to put into the recipe in place of its own."""
        changed = apply(recipe, self.settings)
        keys = dict.fromkeys(setting.partition("=")[0].partition(".")[0] for setting in self.settings)
        data = changed.model_dump(mode="json", include=set(keys))
        return yaml.safe_dump({key: _short(data[key]) for key in keys}, sort_keys=False, allow_unicode=True)


def apply(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with settings, checked as any recipe."""
    return parse_recipe(recipe.to_yaml(), "the recipe with these settings", settings)


def find_repair(
    recipe: Recipe, layout: Layout, state: State, faults: Sequence[Fault], tries: Iterable[list[str]], replan: Replan
) -> Repair | None:
    """The first candidate that mends all faults, else the one that mends most; None where none mends any.

    A candidate with more extreme layers is no repair.
    """
    wrong = [fault for fault in faults if fault.severity != "note"]
    best, best_left = None, len(wrong)
    for settings in tries:
        if not wrong or best_left == 0:
            break
        try:
            scores, plan = replan(apply(recipe, settings))
        except HgspError:
            continue  # the recipe's method does not take this setting, or its limits forbid it
        tried = State.of(rates(layout, plan), scores)
        left = tuple(fault.kind for fault in wrong if fault.holds(tried))
        if len(tried.extreme) > len(state.extreme):
            continue
        if len(left) < best_left:
            best, best_left = Repair(tuple(settings), tried, left), len(left)
    return best


def candidates(recipe: Recipe, mean_ratio: float, extreme: int, comparable: bool) -> Iterator[list[str]]:
    """Settings in the order in which to try them: the choice guide first, then its other normalizers, then limits.

    No normalizer where scores are comparable: it would take away what they say of the layers.
    """
    log, clip_log = [{"use": "log"}], [{"use": "clip"}, {"use": "log"}]
    guide = [_MINMAX, [{"use": "sqrt"}]]
    if mean_ratio > FAR_APART:
        guide = [clip_log, log] if extreme > 5 else [log]
    others = [log, _MINMAX, [{"use": "sqrt"}], clip_log, [{"use": "clip"}, {"use": "minmax"}], [{"use": "zscore"}]]
    for normalizers in [] if comparable else [*guide, *(other for other in others if other not in guide)]:
        yield [f"normalize={in_yaml(normalizers)}"]
    yield [_CAPPED]
    if not comparable:
        yield [f"normalize={in_yaml(_MINMAX)}", _CAPPED]
    share = recipe.allocate.with_.get("ratio")
    if isinstance(share, int | float):
        for part in (0.75, 0.5, 0.25):
            yield [f"allocate.with.ratio={share * part:.3g}"]


def finding(fault: Fault, recipe: Recipe, repair: Repair | None) -> Finding:
    """A fault as it stands in the file, with what repairs it."""
    suggested = None if fault.severity == "note" or repair is None else _suggested(repair, recipe, fault)
    return {
        "kind": fault.kind,
        "severity": fault.severity,
        "layers": list(fault.layers),
        "title": fault.title,
        "text": fault.text,
        "repair": suggested,
    }


def _suggested(repair: Repair, recipe: Recipe, fault: Fault) -> SuggestedRepair:
    after = repair.state
    early = float(after.rates[EARLY].max(initial=0.0))
    then: Repaired = {
        "num_extreme_layers": len(after.extreme),
        "layers_2_to_4_lose_at_most": early,
        "spread": after.spread,
    }
    lines, repairs = repair.lines(recipe), fault.kind not in repair.left
    return {"set": list(repair.settings), "recipe": lines, "repairs": repairs, "then": then}


def read_diagnosis(run: Path) -> Diagnosis:
    """gradient_diagnosis.json of a run's directory.

    Raises:
        DiagnosisError: no such directory, no finished run, or a file that is none of ours.
    """
    path = run / FILE
    if not run.is_dir():
        raise DiagnosisError.no_directory(run)
    try:
        return cast(Diagnosis, read_object(path, forms.Diagnosis))  # which the form has checked
    except FileNotFoundError:
        raise DiagnosisError.no_diagnosis(path) from None
    except ValueError as error:
        raise DiagnosisError.unreadable(path, error) from None


def _short(value: Any) -> Any:
    """Without empty `with`."""
    if isinstance(value, Mapping):
        return {key: _short(item) for key, item in value.items() if not (key == "with" and not item)}
    return [_short(item) for item in value] if isinstance(value, list) else value


def _times(value: float) -> str:
    if not np.isfinite(value):
        return "infinitely many times"
    return f"{value:,.{1 if value < 10 else 0}f} times"
