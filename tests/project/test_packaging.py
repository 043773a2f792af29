"""What is installed is whole: wheels, entry points, a third party's plugin, and a checkpoint that needs none of it."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

from tests.helpers.command import ROOT
from tests.project.test_tutorial import BLOCKS

PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
MODEL = ROOT / "models" / "pydoc-llama"
SITE = sysconfig.get_paths()["purelib"]


def python(*arguments, path=None, cwd=None, interpreter=sys.executable, **env):
    """Run Python and return what it printed; `path` is searched before anything that is installed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **env} | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(
        [interpreter, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_install(target, *what):
    python("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", target, *what)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Each distribution's wheel, built on its own."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, *PLUGINS):
        python("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, project)
    return sorted(folder.glob("*.whl"))


def test_the_wheel_holds_the_catalogue_the_text_and_the_modeling_file(wheels):
    names = zipfile.ZipFile(next(w for w in wheels if w.name.startswith("hgsp_core"))).namelist()
    for needed in (
        "hgsp_core/registry.yaml",
        "hgsp_core/texts/pydoc/calibration.txt",
        "hgsp_core/texts/pydoc/evaluation.txt",
        "hgsp_core/checkpoint/modeling_hgsp.py",
        "hgsp_core/cli/template.yaml",
        "hgsp_core/report/templates/page.css",
        "hgsp_core/report/templates/run.html",
        "hgsp_core/export/templates/card.md",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests", "models", "plugins"))]


def build_core(kind, folder):
    """Make what the build backend's hook `build_KIND` makes of hgsp-core."""
    code = f"import hatchling.build as backend, sys; print(backend.build_{kind}(sys.argv[1]))"
    return folder / python("-c", code, folder, cwd=ROOT).split()[-1]


#: prints the catalogue's file and a name in it
CATALOGUE = "from hgsp_core import plugins; print(plugins._catalogue_file(), plugins.catalogue()[0]['distribution'])"


def test_a_wheel_of_the_sdist_reads_the_catalogue_that_it_brings(tmp_path):
    sdist = build_core("sdist", tmp_path)
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert [name for name in names if name.endswith("registry.yaml")] == [f"{names[0].split('/')[0]}/registry.yaml"]
    pip_install(tmp_path / "site", sdist)  # pip builds a wheel of it
    where, first = python("-c", CATALOGUE, path=tmp_path / "site", cwd=tmp_path).split()
    assert (Path(where), first) == (tmp_path / "site" / "hgsp_core" / "registry.yaml", "hgsp-llama")


def test_an_editable_install_reads_the_catalogue_at_the_root_of_the_checkout(bare, tmp_path):
    pip_install(tmp_path / "site", build_core("editable", tmp_path))
    code = f"import site; site.addsitedir(r'{tmp_path / 'site'}'); {CATALOGUE}"
    where, first = python("-c", code, interpreter=bare, path=SITE, cwd=tmp_path).split()
    assert (Path(where), first) == (ROOT / "registry.yaml", "hgsp-llama")
    assert not list(ROOT.glob("hgsp_core/**/registry.yaml"))


def test_every_wheel_carries_its_types(wheels):
    assert len(wheels) == 1 + len(PLUGINS)
    for wheel in wheels:
        assert f"{wheel.name.split('-')[0]}/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_installed_wheels_find_each_other(wheels, tmp_path):
    pip_install(tmp_path / "site", *wheels)
    code = "import hgsp_core; from hgsp_core.plugin import registry; print(hgsp_core.__file__, registry.architecture('llama').head)"
    where, head = python("-c", code, path=tmp_path / "site", cwd=tmp_path).split()
    assert Path(where).is_relative_to(tmp_path)
    assert head == "lm_head"


@pytest.fixture(scope="module")
def third_party(tmp_path_factory):
    """A plugin in a project of its own, installed with pip: a scorer that likes units with even numbers."""
    project = tmp_path_factory.mktemp("project")
    (project / "pyproject.toml").write_text(
        textwrap.dedent("""
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"
        [project]
        name = "acme-pruning"
        version = "1.0"
        [project.entry-points.hgsp]
        acme = "acme_pruning"
        """)
    )
    package = project / "acme_pruning"
    package.mkdir()
    (package / "__init__.py").write_text(
        textwrap.dedent("""
        from pydantic import Field
        from hgsp_core import Method, Params, hookimpl

        class EvenParams(Params):
            reward: float = Field(2.0, gt=1, description="how much more an even unit is worth")

        @hookimpl
        def hgsp_scorers():
            return [Method("even", "acme_pruning.even:Even", EvenParams, "even units first class")]

        @hookimpl
        def hgsp_recoverers():
            return [Method("halve", "acme_pruning.halve:Halve", Params, "halves the final norm")]
        """)
    )
    (package / "even.py").write_text(
        textwrap.dedent("""
        import numpy as np
        from hgsp_core import Scores

        class Even:
            collectors = ()
            def __init__(self, params):
                self.reward = params.reward
            def __call__(self, job):
                return Scores.of(job.layout, [
                    {name: np.where(np.arange(b.units) % 2 == 0, self.reward, 1.0) * b.unit_cost for name, b in l.blocks.items()}
                    for l in job.layout.layers
                ])
        """)
    )
    (package / "halve.py").write_text(
        textwrap.dedent("""
        import shutil
        from safetensors.torch import load_file, save_file

        class Halve:
            def __init__(self, params): ...
            def __call__(self, job):
                shutil.copytree(job.checkpoint, job.destination)
                file = job.destination / "model.safetensors"
                tensors = load_file(file)
                save_file(tensors | {"model.norm.weight": tensors["model.norm.weight"] / 2}, file, {"format": "pt"})
                return {"steps": 1}
        """)
    )
    site = tmp_path_factory.mktemp("site")
    pip_install(site, project)
    return site


def test_a_third_partys_scorer_runs_in_a_recipe(third_party, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {{path: {MODEL}}}\nscore: {{use: even, with: {{reward: 3}}}}\n"
        "allocate: {use: hgsp, with: {ratio: 0.1, temperature: 0}}\nreconstruct: {use: none}\nexport: []\noutput: out\n"
    )
    python("-m", "hgsp_core", "run", recipe, "--quiet", "--cache", tmp_path / "cache", path=third_party, cwd=tmp_path)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    gone = [set(range(layer["mlp"]["of"])) - set(layer["mlp"]["kept"]) for layer in plan["layers"]]
    assert any(gone)
    assert all(unit % 2 == 1 for units in gone for unit in units)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["versions"]["acme-pruning"] == "1.0"
    listed = python("-m", "hgsp_core", "plugins", path=third_party)
    assert "even" in listed
    assert "acme-pruning" in listed


def test_a_third_partys_recoverer_has_the_last_word_on_the_weights(third_party, tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        f"model: {{path: {MODEL}}}\nscore: {{use: even}}\nallocate: {{use: hgsp, with: {{ratio: 0.1, temperature: 0}}}}\n"
        "reconstruct: {use: none}\nrecover: {use: halve}\noutput: out\n"
    )
    python("-m", "hgsp_core", "run", "recipe.yaml", "--quiet", "--cache", "cache", path=third_party, cwd=tmp_path)
    from safetensors.torch import load_file

    name = "model.norm.weight"
    before, after = (load_file(d / "model.safetensors")[name] for d in (MODEL, tmp_path / "out" / "model"))
    assert (after == before / 2).all()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["recovery"] == {"steps": 1}


def virtual_environment(folder):
    """The Python of a new virtual environment, in which nothing is installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    return folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Has the libraries but not hgsp where SITE is a path: editable installs do not count."""
    return virtual_environment(tmp_path_factory.mktemp("bare"))


@pytest.mark.parametrize(("ratio", "shape"), [(0.2, "non-uniform"), (0.2, "uniform")])
def test_the_result_loads_without_hgsp_and_is_the_same(ratio, shape, bare, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    allocate = {
        "non-uniform": "{use: hgsp, with: {ratio: %s}}",
        "uniform": "{use: hgsp, with: {ratio: %s, uniform: true}}",
    }
    recipe.write_text(
        f"model: {{path: {MODEL}}}\ncalibrate: {{dataset: pydoc, samples: 16}}\nallocate: {allocate[shape] % ratio}\noutput: out\n"
    )
    python("-m", "hgsp_core", "run", recipe, "--quiet", "--cache", tmp_path / "cache", cwd=tmp_path)
    look = tmp_path / "look.py"
    look.write_text(
        textwrap.dedent("""
        import importlib.util, sys, torch
        from safetensors.torch import save_file
        with_hgsp = sys.argv[2] == "with"
        if with_hgsp:
            import hgsp_core
        else:
            assert importlib.util.find_spec("hgsp_core") is None
        from transformers import AutoModelForCausalLM, AutoTokenizer
        flag = {} if with_hgsp else {"trust_remote_code": True}
        model = AutoModelForCausalLM.from_pretrained("out/model", **flag).eval()
        ids = AutoTokenizer.from_pretrained("out/model", **flag)("Return a new list", return_tensors="pt").input_ids
        cached = model.generate(ids, max_new_tokens=12, do_sample=False, use_cache=True)
        assert torch.equal(cached, model.generate(ids, max_new_tokens=12, do_sample=False, use_cache=False))
        save_file({"logits": model(cached, use_cache=False).logits.contiguous(), "ids": cached}, sys.argv[1])
        print(model.config.model_type)
        """)
    )
    modules = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    kind = python(look, "bare.safetensors", "without", interpreter=bare, path=SITE, cwd=tmp_path, **modules)
    python(look, "ours.safetensors", "with", cwd=tmp_path, **modules)
    from safetensors.torch import load_file

    bare_result, ours = load_file(tmp_path / "bare.safetensors"), load_file(tmp_path / "ours.safetensors")
    assert (bare_result["logits"] - ours["logits"]).abs().max() == 0
    assert (bare_result["ids"] == ours["ids"]).all()
    assert kind.strip() == {"non-uniform": "hgsp", "uniform": "llama"}[shape]


@pytest.fixture(scope="module")
def checked(wheels, tmp_path_factory):
    """Runs mypy over the plugin of docs/write-a-plugin.md, where hgsp-core is only installed as a wheel.

    Called with what to replace in the plugin's files; returns what mypy printed.
    """
    folder = tmp_path_factory.mktemp("typed")
    interpreter = virtual_environment(folder)
    site = python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", interpreter=interpreter).strip()
    pip_install(site, next(w for w in wheels if w.name.startswith("hgsp_core")))
    Path(site, "libraries.pth").write_text(SITE)  # torch and others; editable installs in there are not followed

    def run(old="", new=""):
        for path, _, content in BLOCKS:
            if path.startswith("hgsp-written/"):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(content.replace(old, new) if old else content, encoding="utf-8")
        command = [sys.executable, "-m", "mypy", "--python-executable", interpreter, "--config-file=", "hgsp-written"]
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600).stdout

    return run


@pytest.mark.slow
def test_the_tutorials_plugin_type_checks_against_the_wheel_and_a_wrong_return_type_is_found(checked):
    assert checked() == "Success: no issues found in 3 source files\n"
    for wrong, contract in (
        ("-> Scores:", "score.contract.Scorer"),
        ("-> LayerStatistics:", "engine.collectors.Collector"),
    ):
        printed = checked(wrong, "-> list[float]:")
        assert "incompatible with return type" in printed
        assert f'in supertype "hgsp_core.{contract}"' in printed
