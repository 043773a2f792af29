"""`hgsp plugins check`: its table, its JSON and its exit code. What the checks themselves find: tests/testing."""

import json
import re

import pytest
from typer.testing import CliRunner

from hgsp_core.cli import app
from hgsp_core.plugin.errors import PluginError
from tests.helpers.command import PLUGINS


def check(*arguments):
    return CliRunner().invoke(app, ["plugins", "check", *arguments], catch_exceptions=False)


@pytest.fixture
def installed(monkeypatch):
    """Installs a folder of tests/helpers/plugins, in this process and in those that it starts."""
    return lambda name: monkeypatch.syspath_prepend(PLUGINS / name)


def test_a_good_plugin_passes_line_by_line(installed):
    installed("good")
    done = check("hgsp-good")
    *lines, summary = done.stdout.splitlines()
    assert (done.exit_code, summary) == (0, f"{len(lines)} passed")
    assert len(lines) >= 10
    assert all(re.fullmatch(r"\w+ +(plugin|scorer) [\w-]+ +passed *", line) for line in lines), lines


def test_a_plugin_with_a_fault_fails_with_the_reason_and_exit_code_1(installed):
    installed("misspells_a_hook")
    done = check("hgsp-misspells")
    assert done.exit_code == 1
    assert re.search(
        r"plugin_loads +plugin [\w-]+ +failed: it implements 'hgsp_scorer', which is not a hook", done.stdout
    )
    assert re.search(r"importing_the_plugin_brings_no_torch +plugin [\w-]+ +not run: .*'plugin_loads'", done.stdout)
    assert done.stdout.splitlines()[-1] == "1 failed, 1 not run"


def test_json_tells_the_same(installed):
    installed("misspells_a_hook")
    done = check("hgsp-misspells", "--json")
    assert (done.exit_code, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    assert (found["passed"], found["failed"], found["not run"]) == (0, 1, 1)
    assert [(r["check"], r["outcome"]) for r in found["results"]] == [
        ("plugin_loads", "failed"),
        ("importing_the_plugin_brings_no_torch", "not run"),
    ]
    assert "Did you mean 'hgsp_scorers'?" in found["results"][0]["reason"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hgsp-lama", "No distribution 'hgsp-lama' is installed. Did you mean 'hgsp-llama'?"),
        ("numpy", "'numpy' is installed, but is no plugin"),
    ],
)
def test_what_is_no_plugin_is_the_users_mistake(name, message):
    with pytest.raises(PluginError, match=re.escape(message)):  # the class of exit code 2: test_bad_input.py
        check(name)


def test_the_help_teaches():
    text = " ".join(CliRunner().invoke(app, ["plugins", "check", "--help"]).stdout.replace("│", " ").split())
    assert "Example: hgsp plugins check" in text
    assert "Reads" in text
    assert "Writes" in text
    assert "Exit code" in text
