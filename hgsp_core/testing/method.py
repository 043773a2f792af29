"""What a method must hold: what it declares, and what its implementation does with a job of its kind."""

from __future__ import annotations

import copy
import inspect
import os
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from hgsp_core import Method, Params
from hgsp_core.runtime.fresh import run_fresh
from hgsp_core.runtime.recipe import describe
from hgsp_core.testing import results
from hgsp_core.testing.check import Check, Table, checks_of, fail, require
from hgsp_core.testing.jobs import JOBS
from hgsp_core.testing.trial import CONTRACTS, Trial


def method_checks(method: Method, kind: str, params: Mapping[str, Any] | None = None) -> list[Check]:
    """The conformance checks of a method, to call one by one.

    Args:
        kind: "scorer", "prior", "normalizer", "allocator", "reconstructor", "recoverer", "evaluator", "exporter" or "dataset".
            What a recoverer, evaluator or exporter does to a model is too much its own to be checked here: of these, only
            what they declare is.
        params: what a recipe would write under `with`. Without it, defaults are used; where a parameter has none, the checks
            that run the method are skipped.
    """
    require(kind in CONTRACTS, f"There is no kind of method '{kind}'; one of {', '.join(CONTRACTS)}.")
    return checks_of({**DECLARED, **BEHAVIOUR.get(kind, {})}, Trial(method, kind, dict(params or {})))


def is_named_and_summarised(trial: Trial) -> None:
    """A recipe can write its name, and a summary says what it does."""
    name = trial.method.name
    plain = name and not set(name) & set(" /:,[]{}'\"")
    require(plain, f"The name {name!r} cannot be written in a recipe: letters, digits, '-', '_'.")
    require(trial.method.summary.strip(), f"Method '{name}': `summary` is empty; say in a line what it does.")


def parameters_are_documented(trial: Trial) -> None:
    """Every parameter has a description, which `hgsp plugins show` prints."""
    for key, description, _ in describe(trial.method.params):
        how = "Field(default, ..., description='what it does, with its unit')"
        require(description.strip(), f"The parameter '{key}' has no description: {how}.")


def parameters_round_trip(trial: Trial) -> None:
    """Parameters are frozen, refuse unknown keys, and come back equal from what a run writes down."""
    cls = trial.method.params
    require(issubclass(cls, Params), f"{cls.__name__} must be a subclass of hgsp_core.Params.")
    require(
        cls.model_config.get("frozen") and cls.model_config.get("extra") == "forbid",
        f"{cls.__name__} changes `model_config`: parameters must stay frozen, and unknown keys errors.",
    )
    for mode in ("python", "json"):
        written = trial.params.model_dump(mode=mode)
        again = cls(**written)
        require(again == trial.params, f"Built again from what {mode} writes ({written}) the parameters are {again!r}.")


def target_imports(trial: Trial) -> None:
    """The class behind the method is there, takes its params, and says what the pipeline must prepare."""
    target = trial.method.target
    _module, colon, attribute = target.partition(":")
    require(colon and attribute, f"`target` is '{target}'; it must be 'module:Class'.")
    try:
        cls = trial.implementation
    except (ImportError, AttributeError) as error:
        fail(f"`target` '{target}' cannot be imported: {error}.")
    contract = CONTRACTS[trial.kind]
    require(
        inspect.isclass(cls) and issubclass(cls, contract),
        f"'{target}' must be a class that subclasses the contract of its kind: "
        f"`class {attribute}({contract.__name__}[{trial.method.params.__name__}])`, from hgsp_core import {contract.__name__}.",
    )
    require(
        not cls.__abstractmethods__,
        f"{attribute} lacks {', '.join(sorted(cls.__abstractmethods__))}, which every {contract.__name__} has.",
    )
    module = sys.modules[cls.__module__].__doc__
    require(
        (cls.__doc__ or "").strip() not in ("", (contract.__doc__ or "").strip()) or (module or "").strip(),
        f"Neither '{attribute}' nor its module has a docstring: say there what it computes, and where that is from.",
    )


def import_brings_no_torch(trial: Trial) -> None:
    """Declaring the method imports neither torch nor transformers, so that `hgsp --help` stays fast."""
    module = trial.method.target.partition(":")[0]
    package = module.rpartition(".")[0] or module
    for name in {package, trial.method.params.__module__}:
        require_light(name)


def require_light(module: str) -> None:
    found = _heavy_import(module)
    require(
        not found,
        f"Importing '{module}' imports {found}. Only the class's own module may: name it in `target`, which is imported on use, "
        "and keep the params class in a module without torch.",
    )


#: imports a module and tells the first place that asks for torch or transformers, without importing those
_WATCH = """
import importlib, os, sys

class Watch:
    def find_spec(self, name, path, target=None):
        if name in ("torch", "transformers"):
            frame = sys._getframe(1)
            while "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            print(f"{name} ({os.path.basename(frame.f_code.co_filename)}, line {frame.f_lineno})", flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
"""


@cache
def _heavy_import(module: str) -> str:
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    done = run_fresh("-c", _WATCH, module, PYTHONPATH=path)
    require(done.returncode == 0, f"'{module}' cannot be imported: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout.strip()


def is_deterministic(trial: Trial) -> None:
    """The same job gives the same result, whatever state the global random generators are in."""
    with _shaken(1):
        first = trial.run()
    with _shaken(2):
        second = trial.run()
    require(
        same(first, second),
        "Two runs with the same seed differ. Draw random numbers from np.random.default_rng(job.seed), and iterate over nothing "
        "whose order may change.",
    )


@contextmanager
def _shaken(state: int) -> Iterator[None]:
    """Global random generators in a state of our own, and back."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def inputs_stay_untouched(trial: Trial) -> None:
    """The job is as it was: other methods read the same statistics and scores."""
    built = trial.build()
    job = JOBS[trial.kind](built)
    before = copy.deepcopy(job)
    _lock(job)
    try:
        built(job)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        fail(f"It writes into an array of its job ({error}); make a new one, or copy first.")
    require(same(job, before), "It changes what its job holds; make a new array or tensor, or copy first.")


def _lock(value: Any) -> None:
    """Make every numpy array in there read-only."""
    if isinstance(value, np.ndarray):
        value.setflags(write=False)
    for part in _parts(value).values():
        _lock(part)


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, arrays and tensors by value, NaN equal to NaN."""
    if isinstance(a, np.ndarray) or torch.is_tensor(a):
        return type(a) is type(b) and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype != object)
    parts, others = _parts(a), _parts(b)
    if parts or others:
        return parts.keys() == others.keys() and all(same(part, others[key]) for key, part in parts.items())
    return a == b or (a != a and b != b)


def _parts(value: Any) -> Mapping[Any, Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return value
    return dict(enumerate(value)) if isinstance(value, (list, tuple)) else {}


DECLARED: Table = {
    is_named_and_summarised: (),
    parameters_are_documented: (),
    parameters_round_trip: (),
    import_brings_no_torch: (),
    target_imports: (),
}

_RUNS = (target_imports, results.declared_collectors_suffice)
_NORMALIZES = (target_imports, results.only_scores_change)
_ALLOCATES = (target_imports, results.needed_priors_are_declared)

BEHAVIOUR: Mapping[str, Table] = {
    "scorer": {
        results.declared_collectors_suffice: (target_imports,),
        results.scores_fit_the_model: _RUNS,
        results.scores_are_finite: (*_RUNS, results.scores_fit_the_model),
        results.layers_may_differ: (*_RUNS, results.scores_fit_the_model, results.scores_are_finite),
        is_deterministic: _RUNS,
        inputs_stay_untouched: _RUNS,
    },
    "prior": {
        results.declared_collectors_suffice: (target_imports,),
        results.priors_fit_the_model: _RUNS,
        is_deterministic: _RUNS,
        inputs_stay_untouched: _RUNS,
    },
    "normalizer": {
        results.only_scores_change: (target_imports,),
        results.normal_scores_are_finite: _NORMALIZES,
        results.order_inside_a_block_is_kept: (*_NORMALIZES, results.normal_scores_are_finite),
        is_deterministic: _NORMALIZES,
        inputs_stay_untouched: _NORMALIZES,
    },
    "allocator": {
        results.needed_priors_are_declared: (target_imports,),
        results.plans_fit_the_model: _ALLOCATES,
        results.the_budget_is_met: (*_ALLOCATES, results.plans_fit_the_model),
        results.plans_fit_layers_that_differ: (*_ALLOCATES, results.plans_fit_the_model, results.the_budget_is_met),
        is_deterministic: _ALLOCATES,
        inputs_stay_untouched: _ALLOCATES,
    },
    "reconstructor": {
        results.repairs_fit_the_block: (target_imports,),
        results.a_place_without_bias_gets_none: (target_imports, results.repairs_fit_the_block),
        results.maps_of_readers_fit: (target_imports, results.repairs_fit_the_block),
        is_deterministic: (target_imports, results.repairs_fit_the_block),
        inputs_stay_untouched: (target_imports, results.repairs_fit_the_block),
    },
    "dataset": {
        results.documents_are_text: (target_imports,),
        is_deterministic: (target_imports, results.documents_are_text),
    },
}
