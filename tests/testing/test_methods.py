"""Each wrong method fails the conformance kit for its own reason, and only for that."""

import pytest

from hgsp_core.plugin.errors import PluginError
from hgsp_core.plugin.method import Method, Params
from hgsp_core.testing import check_distribution, method_checks
from tests.testing.fakes.heavy import HeavyParams
from tests.testing.fakes.params import DoublingParams, OpenParams, RatioParams, Required, UndescribedParams


def method(target, params=Params, name="fake", summary="one fault", module="tests.testing.fakes.methods"):
    return Method(name, f"{module}:{target}", params, summary)


#: (kind, method, the one check that fails, what it says)
FAKES = {
    "no summary": ("scorer", method("Magnitude", summary=" "), "is_named_and_summarised", "`summary` is empty"),
    "name with a space": (
        "scorer",
        method("Magnitude", name="a b"),
        "is_named_and_summarised",
        "'a b' cannot be written",
    ),
    "no description": (
        "scorer",
        method("Magnitude", UndescribedParams),
        "parameters_are_documented",
        "'inner.power' has no",
    ),
    "changed by writing": ("scorer", method("Magnitude", DoublingParams), "parameters_round_trip", "samples=16"),
    "unknown keys allowed": ("scorer", method("Magnitude", OpenParams), "parameters_round_trip", "unknown keys errors"),
    "params beside torch": (
        "scorer",
        method("Magnitude", HeavyParams),
        "import_brings_no_torch",
        "torch (heavy.py, line 3)",
    ),
    "no such class": ("scorer", method("Magnitud"), "target_imports", "has no attribute 'Magnitud'"),
    "no such module": (
        "scorer",
        method("X", module="tests.testing.fakes.nowhere"),
        "target_imports",
        "No module named 'tests.testing.fakes.nowhere'",
    ),
    "not callable": ("dataset", method("Silent"), "target_imports", "Silent lacks __call__"),
    "no contract": ("scorer", method("Plain"), "target_imports", "`class Plain(Scorer[Params])`"),
    "undeclared collector": (
        "scorer",
        method("Undeclared"),
        "declared_collectors_suffice",
        "put that collector into `collectors`",
    ),
    "wrong shape": ("scorer", method("WrongShape"), "declared_collectors_suffice", "one number for each of 3 units"),
    "units mixed up": ("scorer", method("Shuffled"), "scores_fit_the_model", "Column 'layer'"),
    "NaN": ("scorer", method("NotFinite"), "scores_are_finite", "layer 1, mlp, unit 0"),
    "writers everywhere": ("scorer", method("ByWriter"), "layers_may_differ", "StopIteration"),
    "seed ignored": ("scorer", method("Seedless"), "is_deterministic", "default_rng(job.seed)"),
    "statistics overwritten": ("scorer", method("Scribbler"), "inputs_stay_untouched", "read-only"),
    "prior of one layer": ("prior", method("ShortPrior"), "priors_fit_the_model", "each of 4 layers"),
    "prior that is NaN": ("prior", method("NoPrior"), "priors_fit_the_model", "NaN"),
    "prior by chance": ("prior", method("GuessedPrior"), "is_deterministic", "differ"),
    "importance changed": ("normalizer", method("Reimportant"), "only_scores_change", "Column 'importance' changed"),
    "logarithm of 0": ("normalizer", method("Logarithm"), "normal_scores_are_finite", "With all zero scores"),
    "order reversed": ("normalizer", method("Reverse"), "order_inside_a_block_is_kept", "order of the units changed"),
    "scores overwritten": ("normalizer", method("InPlace"), "inputs_stay_untouched", "read-only"),
    "priors not declared": ("allocator", method("SecretPriors"), "needed_priors_are_declared", "Set it to True"),
    "unit that is not there": ("allocator", method("OutOfRange"), "plans_fit_the_model", "ascending indices below 3"),
    "everything gone": ("allocator", method("Nothing"), "plans_fit_the_model", "every layer"),
    "ratio passed": ("allocator", method("Overdrawn", RatioParams), "the_budget_is_met", "more than"),
    "nothing removed": ("allocator", method("Idle"), "the_budget_is_met", "removes nothing"),
    "axes everywhere": ("allocator", method("SameAxes"), "plans_fit_layers_that_differ", "KeyError"),
    "plan by chance": ("allocator", method("Dice"), "is_deterministic", "differ"),
    "weight of the new size": (
        "reconstructor",
        method("Narrow"),
        "repairs_fit_the_block",
        "must stay a tensor of shape (48, 24)",
    ),
    "fewer units than planned": (
        "reconstructor",
        method("FewerUnits"),
        "repairs_fit_the_block",
        "12 different ones of 24",
    ),
    "bias without a place": (
        "reconstructor",
        method("AlwaysBias"),
        "a_place_without_bias_gets_none",
        "must not bring one",
    ),
    "map of the wrong size": ("reconstructor", method("SmallMap"), "maps_of_readers_fit", "a finite tensor of shape"),
    "no head": ("reconstructor", method("BlocksOnly"), "maps_of_readers_fit", "the head, where job.block is None"),
    "weight overwritten": ("reconstructor", method("Doubled"), "inputs_stay_untouched", "make a new array or tensor"),
    "no documents": ("dataset", method("NoText"), "documents_are_text", "no document"),
    "documents of bytes": ("dataset", method("Bytes"), "documents_are_text", "a bytes, not a str"),
    "text by chance": ("dataset", method("Lottery"), "is_deterministic", "differ"),
}

#: which are right, so that the faults above are all that is wrong
RIGHT = {
    "scorer": "Magnitude",
    "prior": "FlatPrior",
    "normalizer": "Same",
    "allocator": "Half",
    "reconstructor": "AsItWas",
}


def faults(checks):
    return {check.name: str(check.fault) for check in checks if isinstance(check.fault, AssertionError)}


@pytest.mark.parametrize("name", FAKES)
def test_a_wrong_method_fails_for_its_own_reason(name):
    kind, fake, expected, says = FAKES[name]
    found = faults(method_checks(fake, kind))
    assert list(found) == [expected], found
    assert says in found[expected]


def test_every_check_of_every_kind_has_a_method_that_fails_it():
    failed = {expected for _, _, expected, _ in FAKES.values()}
    for kind in {kind for kind, _, _, _ in FAKES.values()}:
        assert {check.name for check in method_checks(method("Magnitude"), kind)} <= failed


@pytest.mark.parametrize("kind", RIGHT)
def test_a_right_method_passes_all(kind):
    checks = method_checks(method(RIGHT[kind]), kind)
    assert [check.fault for check in checks] == [None] * len(checks)


def test_a_method_that_needs_a_value_is_tried_with_the_one_given():
    needs = method("Half", Required)
    assert "needs a value for: path" in str(
        {c.name: c.fault for c in method_checks(needs, "allocator")}["the_budget_is_met"]
    )
    assert all(check.fault is None for check in method_checks(needs, "allocator", {"path": "x"}))


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(AssertionError, match="no kind of method 'scorers'"):
        method_checks(method("Magnitude"), "scorers")


PLUGIN = """
from hgsp_core import Method, hookimpl

@hookimpl
def hgsp_scorers():
    return [Method("first", "third_party.first:First", summary="keeps units in the order they come")]
"""
FIRST = """
'''Importance falls with the index.'''
import numpy as np
from hgsp_core import Scorer, Scores

class First(Scorer):
    def __call__(self, job):
        falls = [{name: np.arange(b.units, 0, -1) for name, b in l.blocks.items()} for l in job.layout.layers]
        return Scores.of(job.layout, falls)
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that installs a distribution whose package holds these files."""

    def install(name, **files):
        package = tmp_path / name.replace("-", "_")
        package.mkdir()
        for file, text in files.items():
            (package / f"{file}.py").write_text(text)
        info = tmp_path / f"{package.name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[hgsp]\n{name} = {package.name}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def test_a_distribution_is_checked_by_name(installed):
    installed("third-party", __init__=PLUGIN, first=FIRST)
    results = check_distribution("third-party")
    assert {r.subject for r in results} == {"plugin third-party", "scorer first"}
    assert {r.outcome for r in results} == {"passed"}
    assert len(results) == 13


def test_a_broken_distribution_is_told_why(installed):
    installed("half-done", __init__="import nowhere_to_be_found")
    loads, light = check_distribution("half-done")
    assert (loads.check, loads.outcome, light.outcome) == ("plugin_loads", "failed", "not run")
    assert "nowhere_to_be_found" in loads.reason
    assert "plugin_loads" in light.reason


@pytest.mark.slow  # starts fresh processes to reload what was exported
@pytest.mark.parametrize(
    "name", ["hgsp-llama", "hgsp-mistral", "hgsp-qwen", "hgsp-gemma", "hgsp-phi", "hgsp-more", "hgsp-gptoss"]
)
def test_the_repositorys_own_distributions_pass_with_models_that_the_kit_makes(name):
    results = check_distribution(name)
    assert any("with biases" in r.subject for r in results)
    assert [r for r in results if r.outcome != "passed"] == []


def test_a_distribution_that_is_no_plugin_is_refused():
    with pytest.raises(PluginError, match=r"No distribution 'hgsp-lama' is installed. Did you mean 'hgsp-llama'"):
        check_distribution("hgsp-lama")
    with pytest.raises(PluginError, match="no entry point in the group 'hgsp'"):
        check_distribution("numpy")
