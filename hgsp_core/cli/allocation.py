"""`hgsp prune`: the allocator of its flags, and its parameters.

The scripts had one file for each allocation. Here `--pruning_strategy` says which, or the flags do: the first allocation
below that takes all of those that were given. A flag that it does not take is an error, never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hgsp_core.cli.draft import Draft, existing_file
from hgsp_core.errors import FlagError

PRIOR_FLAGS = ("--layer_importance_method", "--layer_importance_samples", "--layer_importance_config")

_LIMITS = {
    "limits.layer_start": ("--layer_start",),
    "limits.layer_end": ("--layer_end",),
    "limits.freeze_first": ("--freeze_first_n_layers",),
    "limits.freeze_last": ("--freeze_last_n_layers",),
    "limits.layer_min_rate": ("--layer_min_pruning_rate",),
    "limits.layer_max_rate": ("--layer_max_pruning_rate",),
}


@dataclass(frozen=True)
class Allocation:
    """An allocator, and key of its parameters -> flags that set it. `more`: flags that it takes in another way."""

    use: str
    settings: Mapping[str, tuple[str, ...]]
    more: tuple[str, ...] = ()

    def takes(self, flag: str) -> bool:
        return flag in self.more or any(flag in flags for flags in self.settings.values())


GLOBAL = Allocation(
    "hgsp",
    {"temperature": ("--temperature",), "tau": ("--tau",), "epsilon": ("--epsilon",), **_LIMITS},
    more=("--global_pruning", *PRIOR_FLAGS),
)
UNIFORM = Allocation(
    "uniform",
    {
        "attention.layer_start": ("--block_attention_layer_start", "--layer_start"),
        "attention.layer_end": ("--block_attention_layer_end", "--layer_end"),
        "mlp.layer_start": ("--block_mlp_layer_start", "--layer_start"),
        "mlp.layer_end": ("--block_mlp_layer_end", "--layer_end"),
    },
)
BY_LAYER = Allocation("layerwise", {"importance_weight": ("--importance_weight",), **_LIMITS}, more=PRIOR_FLAGS)
EVEN = Allocation("layerwise", _LIMITS, more=PRIOR_FLAGS)

#: --pruning_strategy -> the allocations that it may stand for, the first one that takes all flags
STRATEGIES = {
    "global": (GLOBAL,),
    "inverse": (BY_LAYER,),
    "proportional": (BY_LAYER,),
    "uniform": (UNIFORM, EVEN),
}
#: ... and without it
_DEDUCED = (("global", GLOBAL), ("uniform", UNIFORM), ("inverse", BY_LAYER))
_ALLOCATIONS = (GLOBAL, UNIFORM, BY_LAYER, EVEN)


def allocate(draft: Draft) -> str:
    """`allocate` and `prior`. Returns the strategy's name."""
    strategy, allocation = _choose(draft)
    draft.set("allocate.use", allocation.use)
    draft.put("allocate.with.ratio", "--pruning_ratio", default=0.2)
    if allocation.use == "layerwise":
        draft.set("allocate.with.strategy", strategy, "--pruning_strategy")
    if allocation is GLOBAL:
        plain = draft.take("--global_pruning")
        draft.put("allocate.with.temperature", "--temperature", default=0.0 if plain else 1.0)
        draft.set("allocate.with.tau", _tau(draft.take("--tau")), "--tau")
        draft.put("allocate.with.epsilon", "--epsilon", default=0.0 if plain else 0.15)
    for key, flags in allocation.settings.items():
        if key not in ("temperature", "tau", "epsilon"):
            draft.put(f"allocate.with.{key}", *flags)
    shares(draft)
    if allocation.takes(PRIOR_FLAGS[0]):
        _prior(draft, strategy)
    return strategy


def _choose(draft: Draft) -> tuple[str, Allocation]:
    """Raises FlagError where no allocation takes all the flags."""
    given = draft.take("--pruning_strategy")
    if given is not None and given not in STRATEGIES:
        raise FlagError.unknown("--pruning_strategy", given, STRATEGIES)
    candidates = _DEDUCED if given is None else [(given, allocation) for allocation in STRATEGIES[given]]
    flags = [flag for flag in draft.given if any(allocation.takes(flag) for allocation in _ALLOCATIONS)]
    for strategy, allocation in candidates:
        if all(allocation.takes(flag) for flag in flags):
            return strategy, allocation
    goes_with = {
        flag: [name for name, allocations in STRATEGIES.items() if any(a.takes(flag) for a in allocations)]
        for flag in flags
    }
    raise FlagError.strategy(given, goes_with)


def _tau(given: str | None) -> str | float:
    """auto, or a number (inf is one)."""
    if given in (None, "auto"):
        return "auto"
    try:
        tau = float(given)
    except ValueError:
        tau = -1.0
    if not tau >= 0:
        raise FlagError.not_understood("--tau", given, "auto, inf or a number of 0 or above")
    return tau


def shares(draft: Draft) -> None:
    """The split of the budget: --pruning_distribution, or --no-prune_mlp for attention only."""
    distribution, mlp = draft.take("--pruning_distribution"), draft.take("--prune_mlp")
    nothing_for_mlps = distribution is not None and distribution.partition(":")[2].strip("0.") == ""
    if mlp is True and nothing_for_mlps and ":" in distribution:
        raise FlagError.contradict(("--prune_mlp", "(MLPs are pruned too)"), ("--pruning_distribution", distribution))
    if mlp is False and distribution is not None and not nothing_for_mlps:
        raise FlagError.contradict(("--no-prune_mlp", "(attention alone)"), ("--pruning_distribution", distribution))
    if mlp is False and distribution is None:
        distribution = "10:0"
    draft.set("allocate.with.limits.pruning_distribution", distribution, "--pruning_distribution")


def _prior(draft: Draft, strategy: str) -> None:
    """`prior`, and a note if it is not used or takes no number of samples."""
    given = [flag for flag in PRIOR_FLAGS if flag in draft.given]
    method, samples, config = (draft.take(flag) for flag in PRIOR_FLAGS)
    if config is not None:
        if len(given) > 1:
            raise FlagError.excludes("--layer_importance_config", given[0], "a file replaces the measurement")
        prior: dict[str, Any] = {
            "use": "file",
            "with": {"path": existing_file("--layer_importance_config", Path(config))},
        }
    else:
        method = method or "removal"
        prior = {"use": method}
        if method == "removal":
            prior["with"] = {"samples": 50 if samples is None else samples}
            there = draft.data["calibrate"]["samples"]
            if samples is not None and samples > there:
                draft.notes.append(
                    f"--layer_importance_samples {samples}: the calibration set has only {there} windows; all are used."
                )
        elif samples is not None:
            draft.notes.append(
                f"--layer_importance_samples {samples}: '{method}' is measured on the entire calibration set, at no extra cost."
            )
    if strategy == "uniform" or draft.data["allocate"]["with"].get("temperature") == 0:
        if given:
            why = "with the same rate in every layer" if strategy == "uniform" else "at temperature 0"
            draft.notes.append(f"{', '.join(given)}: no layer importance is measured {why}.")
        return
    for key, value in prior.items():
        draft.set(f"prior.{key}", value, given[0] if given and key == "use" else "")
