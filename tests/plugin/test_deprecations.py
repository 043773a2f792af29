"""Old names of flags and recipe keys: they work, they warn, and they leave with the version that they announce."""

import json
import re
from importlib import import_module

import pytest
import yaml
from packaging.version import Version

from hgsp_core import __version__
from hgsp_core.errors import FlagError, RecipeError
from hgsp_core.plugin.deprecations import MOVED, RENAMED, Renamed, adopted, current_flags, current_keys
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.score.contract import Scorer
from tests.helpers.command import MODEL, hgsp

FLAGS = [entry for entry in RENAMED if entry.is_flag]
KNOWN = {entry.new for entry in RENAMED} | {"--importance_method", "--pruning_ratio"}
KEYS = (Renamed("calibrate.nsamples", "calibrate.samples", "0.1", "1.0"),)


@pytest.mark.parametrize("entry", RENAMED, ids=lambda entry: entry.old)
def test_an_old_name_is_gone_by_the_version_that_was_announced(entry):
    assert Version(__version__) < Version(entry.removed_in), f"{entry.old} was to be removed: delete its entry"
    assert Version(entry.since) < Version(entry.removed_in)


def test_no_name_is_renamed_twice_or_to_another_old_name():
    old = [(entry.old, value) for entry in RENAMED for value in entry.values or (None,)]
    assert len(old) == len(set(old))
    assert not {entry.new for entry in RENAMED} & {entry.old for entry in RENAMED}
    assert all(entry.is_flag == entry.new.startswith("--") for entry in RENAMED)


@pytest.mark.parametrize("entry", FLAGS, ids=lambda entry: entry.old)
@pytest.mark.parametrize("form", [lambda flag, value: [flag, value], lambda flag, value: [f"{flag}={value}"]])
def test_an_old_flag_becomes_the_new_one_with_one_warning_that_names_it_and_its_end(entry, form):
    warnings = []
    value = (*entry.values, "7")[0]
    arguments = ["--pruning_ratio", "0.2", *form(entry.old, value)]
    assert current_flags(arguments, KNOWN, warnings.append) == ["--pruning_ratio", "0.2", *form(entry.new, value)]
    (warning,) = warnings
    assert entry.old in warning
    assert entry.new in warning
    assert f"hgsp-core {entry.removed_in}" in warning


def test_a_name_that_lives_on_with_another_meaning_is_renamed_by_its_value_alone():
    warnings = []
    assert current_flags(["--importance_method", "wanda"], KNOWN, warnings.append) == ["--importance_method", "wanda"]
    assert not warnings
    assert current_flags(["--importance_method=removal"], KNOWN, warnings.append) == [
        "--layer_importance_method=removal"
    ]
    assert len(warnings) == 1


def test_a_command_without_the_new_flag_does_not_take_the_old_one():
    assert current_flags(["--alpha", "2"], {"--output_name"}, pytest.fail) == ["--alpha", "2"]


def test_both_names_of_a_flag_with_different_values_contradict_each_other():
    same = current_flags(["--alpha", "2", "--importance_weight", "2"], KNOWN, lambda _: None)
    assert same == ["--importance_weight", "2", "--importance_weight", "2"]
    with pytest.raises(FlagError, match=re.escape("--alpha 2 and --importance_weight 3 contradict each other")):
        current_flags(["--importance_weight=3", "--alpha", "2"], KNOWN, lambda _: None)


def test_an_old_recipe_key_is_read_as_the_new_one_with_a_warning():
    warnings = []
    data = {"calibrate": {"nsamples": 8, "seed": 1}, "output": "x"}
    assert current_keys(data, "r.yaml", warnings.append, KEYS) == {
        "calibrate": {"samples": 8, "seed": 1},
        "output": "x",
    }
    assert data["calibrate"] == {"nsamples": 8, "seed": 1}, "the mapping that was handed over has changed"
    (warning,) = warnings
    assert warning.startswith("r.yaml: calibrate.nsamples is now calibrate.samples")
    assert "hgsp-core 1.0" in warning


def test_a_recipe_with_an_old_key_is_valid_and_warned_of(caplog):
    text = "{model: {path: m}, allocate: {use: uniform, with: {same_sizes: true}}, output: o}"
    assert parse_recipe(text, "r.yaml").allocate.with_ == {"uniform": True}
    assert [r.getMessage() for r in caplog.records] == [
        "r.yaml: allocate.with.same_sizes is now allocate.with.uniform; the old name will be removed in hgsp-core 1.0."
    ]


@pytest.mark.parametrize("data", [{}, {"calibrate": None}, {"calibrate": "text"}, {"calibrate": {"samples": 3}}])
def test_a_recipe_without_old_keys_stays_as_it_is(data):
    assert current_keys(data, "r.yaml", pytest.fail, KEYS) == data


def test_both_names_of_a_recipe_key_with_different_values_are_refused():
    assert current_keys({"calibrate": {"nsamples": 8, "samples": 8}}, "r", lambda _: None, KEYS) == {
        "calibrate": {"samples": 8}
    }
    with pytest.raises(RecipeError, match=r"r.yaml: calibrate.nsamples: 'calibrate.samples' is given too"):
        current_keys({"calibrate": {"nsamples": 8, "samples": 9}}, "r.yaml", pytest.fail, KEYS)


@pytest.mark.parametrize("old", MOVED)
def test_a_module_of_0_1_gives_the_names_of_its_successors_with_a_warning(old):
    module = import_module(old)
    place = MOVED[old][0]
    name = next(name for name, value in vars(import_module(place)).items() if getattr(value, "__module__", "") == place)
    with pytest.warns(DeprecationWarning, match=f"{old}.{name} is now in {place}"):
        assert getattr(module, name) is getattr(import_module(place), name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


def test_a_plugin_of_0_1_prunes_and_measures(tmp_path):
    recipe = {
        "model": {"path": str(MODEL)},
        "score": {"use": "old"},
        "allocate": {"use": "uniform", "with": {"ratio": 0.2}},
        "reconstruct": {"use": "none"},
        "evaluate": [{"use": "counted"}],
        "export": [],
        "output": "out",
    }
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(recipe))
    ours = {**recipe, "score": {"use": "magnitude"}, "evaluate": [], "output": "ours"}
    (tmp_path / "ours.yaml").write_text(yaml.safe_dump(ours))
    for name in ("old", "ours"):
        done = hgsp("run", f"{name}.yaml", "--quiet", cwd=tmp_path, plugins=["of_0_1"])
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "plan.json").read_text() == (tmp_path / "ours" / "plan.json").read_text()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["before"]["tensors"] == report["after"]["tensors"] > 0


def test_a_class_that_fits_no_contract_is_refused_by_name():
    with pytest.warns(DeprecationWarning, match="must subclass hgsp_core.Scorer"):
        found = adopted(int, Scorer)
    assert "__call__" in found.__abstractmethods__
    assert adopted(lambda params: None, Scorer) is None
