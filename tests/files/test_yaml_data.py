"""YAML from a stranger ends in plain data or in one short line that says where it is wrong."""

import time

import pytest

from hgsp_core.errors import HgspError, RecipeError
from hgsp_core.files.yaml_data import YamlError, parse_yaml
from hgsp_core.runtime.recipe import parse_recipe


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("a: 1\n? [a]\n: b", "line 2, column 3", "a key must be text"),
        ("a: !!bool maybe", "line 1, column 4", "'maybe' is no bool"),
        ("a: !!int x", "line 1, column 4", "'x' is no int"),
        ("a: !!float x", "line 1, column 4", "'x' is no float"),
        ("a: !!timestamp x", "line 1, column 4", "'x' is no timestamp"),
        ("a: !!python/object:os.system x", "line 1, column 4", "could not determine a constructor"),
        ("a: {b: !!timestamp 2020-01-01}", "a.b", "is of type date"),
        ("a: !!set {x}", "a", "is of type set"),
        ("1: x", "", "the key 1 is of type int, not text"),
        ("a: {null: x}", "a", "the key None is nothing, not text"),
        ("a: 1\na: 2", "line 2, column 1", "the key 'a' is given twice"),
        ("a: {<<: 5}", "line 1", "for merging"),
        ("&a [*a]", "", "aliases make it too large"),
        ("a: &a {b: *a}", "", "aliases make it too large"),
        ("a: b\n\0", "line 2", "the character U+0000 is not allowed in YAML"),
        ('a: "b\\0"', "a", "contains invalid characters"),
        ('a: "\\ud800"', "a", "contains invalid characters"),
        ("a: " + "9" * 30, "a", "too large"),
        ("a: " + "9" * 5000, "line 1, column 4", "is no int"),
        ("[" * 5000, "", "nested too deeply"),
        ("a:\n\t- b", "line 2, column 1", "found character '\\t'"),
        ("--- a\n--- b", "line 2", "another document"),
    ],
    ids=lambda value: None,
)
def test_what_is_no_plain_data_is_named(text, place, problem):
    with pytest.raises(YamlError) as caught:
        parse_yaml(text)
    assert place in caught.value.place
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("one_more", ["[{}]", "{{<<: [{}]}}"], ids=["lists", "merge keys"])
def test_aliases_that_explode_are_refused_at_once(one_more):
    lines, last = ["a0: &a0 {x: 1, y: 2}"], "a0"
    for i in range(1, 12):
        lines.append(f"a{i}: &a{i} " + one_more.format(", ".join([f"*{last}"] * 9)))
        last = f"a{i}"
    start = time.perf_counter()
    with pytest.raises(YamlError, match="too large"):
        parse_yaml("\n".join(lines))
    assert time.perf_counter() - start < 5


def test_aliases_merge_keys_and_a_byte_order_mark_are_understood():
    assert parse_yaml("\ufeffa: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1},
    }


def test_a_setting_changes_one_place_of_those_that_an_alias_repeats():
    layers = "allocate: {use: uniform, with: {ratio: 0.2, attention: &a {layer_start: 1}, mlp: *a}}"
    setting = ["allocate.with.attention.layer_start=2"]
    recipe = parse_recipe(f"model: {{path: x}}\noutput: y\n{layers}", "recipe.yaml", setting)
    assert [recipe.allocate.with_[block]["layer_start"] for block in ("attention", "mlp")] == [2, 1]


def test_a_date_is_the_text_that_it_is_written_as():
    assert parse_yaml("output: 2024-05-01") == {"output": "2024-05-01"}


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("model: {path: x}\noutput: y\ndevice: " + "x" * 100_000, []),
        ("model: {path: x}\noutput: y\n" + "x" * 1_000 + ": 1", []),
        ("model: {path: x}\noutput: y\nscore: {use: " + "x" * 100_000 + "}", []),
        ("model: {path: x}\noutput: y\nscore: {use: taylor, with: {" + "x" * 1_000 + ": 1}}", []),
        ("model: {path: x}\noutput: y", ["device=" + "x" * 100_000]),
        ("model: {path: x}\noutput: y", ["x" * 100_000]),
        ("model: {path: x}\noutput: y", ["device=[" + "x" * 100_000]),
    ],
    ids=["value", "key", "method", "parameter", "--set", "--set without =", "--set that is no YAML"],
)
def test_a_message_repeats_a_line_of_a_long_value_at_most(text, overrides):
    with pytest.raises(HgspError) as caught:
        parse_recipe(text, "recipe.yaml", overrides)
    assert all(len(line) < 1500 for line in str(caught.value).splitlines())
    assert "xxx" in str(caught.value)


def test_control_characters_of_a_value_do_not_reach_the_terminal():
    with pytest.raises(RecipeError) as caught:
        parse_recipe('model: {path: x}\noutput: y\n"a\\e[31mb": 1', "recipe.yaml")
    assert "\x1b" not in str(caught.value)
    assert "\\x1b[31m" in str(caught.value)
