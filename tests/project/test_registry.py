"""registry.yaml tells the truth about the plugins of this repository.

hgsp-core's own methods are not in it: its one reader is the message that says what to install, and whoever reads that has
hgsp-core. Plugins of third parties that happen to be installed are no matter of this test.
"""

import re

import pytest

from hgsp_core.plugin import registry
from hgsp_core.plugin.method import HOOKS
from hgsp_core.runtime.recipe import ModelPart
from hgsp_core.runtime.source import open_model
from tests.helpers.architectures import tiny_model
from tests.helpers.command import ROOT

PROJECTS = {
    re.search(r'^name = "(.+)"$', path.read_text(encoding="utf-8"), re.MULTILINE)[1]: path
    for path in sorted((ROOT / "plugins").glob("*/pyproject.toml"))
}


@pytest.fixture
def catalogue():
    return {known["distribution"]: known for known in registry.catalogue()}


def test_the_catalogue_knows_every_plugin_of_the_repository_and_no_other(catalogue):
    assert sorted(catalogue) == sorted(PROJECTS)
    assert len(catalogue) == len(registry.catalogue())


@pytest.mark.parametrize("distribution", PROJECTS)
def test_the_catalogue_equals_what_the_plugin_reports(distribution, catalogue):
    reported: dict[str, list[str]] = {}
    for entry in registry.installed().entries:
        if entry.distribution == distribution:
            reported.setdefault(entry.kind, []).append(entry.name)
    assert reported, f"{distribution} is not installed, or broken: {registry.installed().broken}"
    listed = catalogue[distribution]["provides"]
    assert {kind: sorted(names) for kind, names in listed.items()} == {kind: sorted(n) for kind, n in reported.items()}
    assert set(listed) <= set(HOOKS)


def test_a_recipe_that_needs_a_known_plugin_is_told_its_name():
    nothing_installed = registry.Registry()
    for known in registry.catalogue():
        for kind, names in known["provides"].items():
            for name in names:
                with pytest.raises(registry.PluginError, match=f"pip install {known['distribution']}$"):
                    nothing_installed.find(kind, name)


def test_a_model_of_a_known_family_is_told_which_plugin_to_install(tmp_path, monkeypatch):
    tiny_model("gemma3-window").save_pretrained(tmp_path)
    monkeypatch.setattr(registry, "installed", registry.Registry)
    message = (
        r"config\.json: model_type: The architecture 'gemma3_text' is in a known plugin .*: pip install hgsp-gemma$"
    )
    with pytest.raises(registry.PluginError, match=message):
        open_model(ModelPart(path=str(tmp_path)))


def test_every_entry_says_what_it_is(catalogue):
    for known in catalogue.values():
        assert known["summary"]
        assert known["status"] in ("stable", "experimental")
