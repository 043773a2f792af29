"""What stands around the code agrees with it: workflows, the citation, the pins."""

import re
import sys

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.helpers.command import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # hatchling brings it

WORKFLOWS = ROOT / ".github" / "workflows"


def project(folder=ROOT):
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def workflow(name):
    return yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))


CORE = project()
PYTHONS = [line.rpartition(" ")[2] for line in CORE["classifiers"] if re.search(r":: 3\.\d+$", line)]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
YAML = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_every_yaml_file_around_the_code_parses(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_each_python_that_is_declared_is_tested():
    assert workflow("test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == PYTHONS
    allowed = SpecifierSet(CORE["requires-python"])
    assert all(allowed.contains(version) for version in PYTHONS)
    assert not allowed.contains("3.9")
    assert {project(plugin)["requires-python"] for plugin in PLUGINS} == {CORE["requires-python"]}


def test_every_plugin_is_tested_and_tried_before_a_release():
    test, release = ((WORKFLOWS / name).read_text(encoding="utf-8") for name in ("test.yml", "release.yml"))
    assert test.count("""-e ".[test]" $(printf -- '-e %s ' plugins/*)""") == test.count('-e ".[test]"') > 0
    for plugin in PLUGINS:
        assert project(plugin)["name"] in release


@pytest.mark.parametrize("name", ["test.yml", "release.yml"])
def test_a_workflow_may_only_read_and_pins_the_actions_it_uses(name):
    content = workflow(name)
    assert content["permissions"] == {"contents": "read"}
    assert "concurrency" in content
    more = {key: job["permissions"] for key, job in content["jobs"].items() if "permissions" in job}
    assert more == ({"publish": {"id-token": "write"}} if name == "release.yml" else {})
    text = (WORKFLOWS / name).read_text(encoding="utf-8")
    assert "secrets." not in text
    for action in re.findall(r"uses: (.+)", text):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+(\.\d+)*", action)


def test_only_a_tag_is_published_and_only_after_its_wheels_were_tried():
    publish = workflow("release.yml")["jobs"]["publish"]
    assert publish["if"] == "startsWith(github.ref, 'refs/tags/v')"
    assert publish["environment"] == "release"
    assert publish["needs"] == ["build", "try"]


def test_the_citation_and_the_plugins_name_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {citation["version"], *(project(plugin)["version"] for plugin in PLUGINS)} == {CORE["version"]}


@pytest.mark.parametrize("version", PYTHONS)
def test_each_pin_lies_in_the_declared_range(version):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    pins = [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"python_version": version})]
    pinned = {pin.name.lower(): next(iter(pin.specifier)).version for pin in pins}
    assert len(pinned) == len(pins)
    for extra in (CORE["dependencies"], *CORE["optional-dependencies"].values()):
        for needed in map(Requirement, extra):
            if needed.name.lower() in pinned:
                assert needed.specifier.contains(pinned[needed.name.lower()]), needed


def test_every_tool_of_the_test_suite_is_pinned():
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    for needed in map(Requirement, CORE["optional-dependencies"]["test"]):
        assert f"\n{needed.name.lower()}==" in pinned, needed
