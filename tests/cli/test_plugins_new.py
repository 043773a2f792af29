"""`hgsp plugins new`: what it writes installs, passes its own tests and the conformance kit, and works in a recipe."""

import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hgsp_llama import LLAMA
from typer.testing import CliRunner

from hgsp_core.cli import app
from hgsp_core.cli.errors import ProjectError
from hgsp_core.cli.new_plugin import project_files, substitutions, write_project
from hgsp_core.plugin.method import HOOKS
from tests.helpers.command import MODEL, ROOT, hgsp

#: a family of transformers with the modules of Llama and the name of no known plugin
FAMILY = "seed_oss"
NAMES = {kind: FAMILY if kind == "architecture" else f"my-{kind}" for kind in HOOKS}
TEMPLATES = ROOT / "hgsp_core" / "cli" / "templates"


def python(*arguments, cwd, **env):
    """Run Python with one thread and return what it printed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_install(site, *projects):
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--target", site)
    python("-m", "pip", "install", *options, *projects, cwd=site.parent)


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """Kind -> a project of it, as the command writes it."""
    folder = tmp_path_factory.mktemp("projects")
    made = {}
    for kind, name in NAMES.items():
        made[kind] = folder / f"a-{kind}"
        arguments = ["plugins", "new", kind, name, "--directory", str(made[kind])]
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    return made


@pytest.fixture(scope="module")
def site(projects, tmp_path_factory):
    """A folder with all of them installed."""
    folder = tmp_path_factory.mktemp("installed") / "site"
    pip_install(folder, *projects.values())
    return folder


def test_there_is_a_template_for_every_kind_and_the_help_names_them_all():
    assert {path.name for path in TEMPLATES.iterdir()} == {"project", "method", *HOOKS}
    text = " ".join(CliRunner().invoke(app, ["plugins", "new", "--help"]).stdout.replace("│", " ").split())
    assert ", ".join(list(HOOKS)[:-1]) + " or dataset." in text
    assert "Example: hgsp plugins new" in text
    assert "Reads" in text
    assert "Writes" in text


def test_every_new_project_passes_its_own_tests_without_a_skip(projects, site):
    tests = [project / "tests" for project in projects.values()]
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", site)
    printed = python("-m", "pytest", *options, *tests, cwd=site, PYTHONPATH=str(site))
    passed, skipped = re.search(r"(\d+) passed", printed), re.search(r"skipped", printed)
    assert int(passed[1]) >= 5 * len(HOOKS)
    assert not skipped


@pytest.fixture(scope="module")
def in_recipes(projects, site, tmp_path_factory):
    """A folder with a recipe of the README's lines for each kind, one of all methods together, and one of the prior."""
    folder = tmp_path_factory.mktemp("recipes")
    for kind, project in projects.items():
        lines = re.search(r"```yaml\n(.*?)```", (project / "README.md").read_text(), re.DOTALL)[1]
        (folder / f"{kind}.yaml").write_text(
            yaml.safe_dump({"model": {"path": "x"}, "output": "y"} | yaml.safe_load(lines))
        )
    start = {
        "model": {"path": str(MODEL)},
        "calibrate": {"dataset": "my-dataset", "samples": 8, "seq_len": 32},
        "output": "out",
    }
    methods = {
        "score": {"use": "my-scorer"},
        "normalize": [{"use": "my-normalizer"}],
        "allocate": {"use": "my-allocator", "with": {"ratio": 0.2}},
        "reconstruct": {"use": "my-reconstructor"},
        "evaluate": [{"use": "my-evaluator"}],
        "export": [{"use": "my-exporter"}],
    }
    (folder / "all.yaml").write_text(yaml.safe_dump(start | methods))
    prior = {"score": {"use": "magnitude"}, "prior": {"use": "my-prior", "with": {"power": 2}}}
    (folder / "with-prior.yaml").write_text(yaml.safe_dump(start | prior))
    return folder


METHODS = [kind for kind in HOOKS if kind != "architecture"]
COMMANDS = {
    **{kind: ["plugins", "check", f"hgsp-my-{kind}", "--json"] for kind in METHODS},
    "validate": ["recipe", "validate", *(f"{kind}.yaml" for kind in HOOKS)],
    "run": ["run", "all.yaml", "--json", "--quiet"],
    "plan": ["plan", "with-prior.yaml", "--json", "--quiet"],
}
#: runs commands in one process, as starting one for each would take most of the time
RUN = """
import json, sys
from typer.testing import CliRunner
from hgsp_core.cli import app
done = [CliRunner().invoke(app, command) for command in json.loads(sys.argv[1])]
print(json.dumps([(d.exit_code, d.stdout, d.stderr + repr(d.exception)) for d in done]))
"""


@pytest.fixture(scope="module")
def results(site, in_recipes):
    """Name of each of COMMANDS -> (exit code, stdout, what went wrong)."""
    env = {"PYTHONPATH": str(site), "HGSP_CACHE": str(in_recipes / "store")}
    printed = python("-c", RUN, json.dumps(list(COMMANDS.values())), cwd=in_recipes, **env)
    return dict(zip(COMMANDS, json.loads(printed.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("kind", METHODS)
def test_a_new_method_passes_the_conformance_kit(kind, results):
    code, stdout, fault = results[kind]
    assert code == 0, stdout + fault
    found = json.loads(stdout)
    assert found["distribution"] == f"hgsp-my-{kind}"
    assert found["passed"] == len(found["results"]) >= 7


@pytest.mark.slow
def test_a_new_architecture_passes_the_conformance_kit(site):
    check = ["plugins", "check", f"hgsp-{FAMILY}", "--json"]
    ((code, stdout, fault),) = json.loads(python("-c", RUN, json.dumps([check]), cwd=site, PYTHONPATH=str(site)))
    assert code == 0, stdout + fault
    assert json.loads(stdout)["failed"] == json.loads(stdout)["not run"] == 0


def test_the_recipe_lines_of_every_readme_are_valid_and_name_the_method(results, in_recipes):
    code, stdout, fault = results["validate"]
    assert code == 0, fault
    assert len(stdout.splitlines()) == len(HOOKS), fault
    for kind in METHODS:
        assert f": {NAMES[kind]}\n" in (in_recipes / f"{kind}.yaml").read_text()


def test_new_methods_of_all_kinds_but_recoverers_work_together_in_a_recipe(results, in_recipes):
    code, stdout, fault = results["run"]
    assert code == 0, fault
    report = json.loads(stdout)
    assert report["after"]["parameters"] < report["before"]["parameters"]
    assert 0 < report["before"]["my-evaluator"] < 1
    assert report["after"]["my-evaluator"] > 0
    assert report["exports"] == ["sizes.json"]
    sizes, plan = (json.loads((in_recipes / "out" / name).read_text()) for name in ("sizes.json", "plan.json"))
    assert sizes == [{axis: len(layer[axis]["kept"]) for axis in ("attention", "mlp")} for layer in plan["layers"]]


def test_a_new_prior_works_in_a_recipe(results):
    code, _, fault = results["plan"]
    assert code == 0, fault


@pytest.mark.parametrize("kind", HOOKS)
def test_no_placeholder_is_left_in_a_new_project(kind):
    files = project_files(kind, substitutions(kind, NAMES[kind], set()))
    assert {str(path) for path in files} >= {"pyproject.toml", "README.md"}
    assert not re.search(r"\$\w", "".join([*files.values(), *map(str, files)]))


def test_new_code_is_what_ruff_likes(projects):
    options = ("--isolated", "--no-cache", "--select", "E,F,I,UP", "--line-length", "120")
    for project in projects.values():
        python("-m", "ruff", "check", *options, ".", cwd=project)


def test_a_new_architecture_is_the_data_of_llama():
    values = substitutions("architecture", FAMILY, set())
    namespace = {}
    exec(project_files("architecture", values)[Path(f"hgsp_{FAMILY}/__init__.py")], namespace)
    made = namespace["ARCHITECTURE"]
    own = {"model_type": "llama", "summary": LLAMA.summary, "relative": LLAMA.relative, "gguf": LLAMA.gguf}
    assert replace(made, **own) == LLAMA
    assert made.model_type == FAMILY


def test_new_is_quick_and_says_what_to_do_next(tmp_path):
    code = "import sys; sys.argv[1:] = ['plugins', 'new', 'scorer', 'mine']\ntry:\n import hgsp_core.__main__\n"
    printed = python("-c", code + "finally:\n print('torch' in sys.modules)", cwd=tmp_path)
    assert printed.splitlines()[-1] == "False"
    assert 'pip install -e "hgsp-mine[test]"' in printed
    assert "hgsp plugins check hgsp-mine" in printed
    assert (tmp_path / "hgsp-mine" / "hgsp_mine" / "scorer.py").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["hgsp-mine"]


def test_a_name_that_another_plugin_has_is_written_with_its_distribution():
    assert yaml.safe_load(substitutions("scorer", "taylor", set())["recipe"]) == {
        "score": {"use": "hgsp-taylor/taylor"}
    }


@pytest.mark.parametrize("name", ["", "My", "my_method", "1st", "my--method", "-my", "my-", "../my", "my method", "é"])
def test_a_name_that_cannot_be_one_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectError, match="lower-case letters, digits and dashes"):
        CliRunner().invoke(app, ["plugins", "new", "scorer", "--", name], catch_exceptions=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("scorrer", "mine", "There is no kind of plugin 'scorrer'. Did you mean 'scorer'?"),
        ("scorer", "core", "its distribution would be 'hgsp-core', which exists"),
        ("architecture", "llama", "its distribution would be 'hgsp-llama', which exists"),
        (
            "architecture",
            "smollm33",
            "transformers has no models with model_type 'smollm33'. Did you mean 'smollm3'?",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_fix(kind, name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectError, match=re.escape(message)):
        CliRunner().invoke(app, ["plugins", "new", kind, name], catch_exceptions=False)
    assert not list(tmp_path.iterdir())


def test_an_existing_directory_is_never_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    done = hgsp("plugins", "new", "scorer", "mine", "--directory", tmp_path / "mine", cwd=tmp_path)
    assert done.returncode == 2
    assert "mine' exists and is not overwritten" in done.stderr
    assert not list((tmp_path / "mine").iterdir())


def test_a_project_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    written, write_text = [], Path.write_text

    def full_disk(path, text, encoding):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(write_text(path, text, encoding=encoding))

    files = project_files("scorer", substitutions("scorer", "mine", set()))
    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(ProjectError, match="mine' cannot be created: No space left on device"):
        write_project(tmp_path / "mine", files)
    assert len(written) == 2
    assert not list(tmp_path.iterdir())


def test_the_wheel_holds_the_templates(tmp_path):
    python("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    expected = {str(path.relative_to(ROOT)) for path in TEMPLATES.rglob("*.template")}
    assert expected <= set(zipfile.ZipFile(wheel).namelist())
