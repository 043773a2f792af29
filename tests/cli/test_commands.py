"""`hgsp` from the outside: what it prints, how quickly, and where."""

import json
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from hgsp_core import __version__
from hgsp_core.cli import app
from hgsp_core.cli.explain import example, parameters
from hgsp_core.plugin.registry import Registry, catalogue, installed
from hgsp_core.runtime.errors import OutputError
from hgsp_core.runtime.recipe import Recipe, describe, parse_recipe
from tests.helpers.command import MODEL, ROOT, hgsp
from tests.helpers.reports import documented_files

#: as small as a real run can be
SMALL = f"""
version: 1
model: {{path: {MODEL}}}
calibrate: {{dataset: pydoc, samples: 4, seq_len: 32}}
allocate: {{use: hgsp, with: {{ratio: 0.2}}}}
evaluate: [{{use: perplexity, with: {{datasets: [pydoc], max_windows: 4}}}}]
output: result
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the runs of this module happen, one after another."""
    path = tmp_path_factory.mktemp("runs") / "here"
    path.mkdir()
    (path / "small.yaml").write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def ran(folder):
    """A whole run with --json, and its report."""
    done = hgsp("run", "small.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["plugins"],
        ["plugins", "list", "--json"],
        ["plugins", "show", "hgsp"],
        ["plugins", "show", "hgsp", "--json"],
        ["recipe", "schema"],
        ["recipe", "validate", "recipes/demo.yaml", "recipes/llama-3-8b/methods.yaml"],
        ["--version"],
        ["prune", "--help"],
        ["prune", "--base_model", str(MODEL), "--head_dim", "16", "--print-recipe"],
    ],
    ids=" ".join,
)
def test_what_only_informs_imports_little_and_no_torch(arguments):
    """What it takes is the time of its imports: 500 modules at the most; torch and transformers alone bring 1,300."""
    code = f"import sys; sys.argv[1:] = {arguments!r}\ntry:\n import hgsp_core.__main__\nfinally:\n print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    modules = done.stdout.rpartition("[")[2]
    assert modules.count(",") < 700
    for heavy in ("torch", "transformers", "datasets", "matplotlib", "jinja2", "pandas"):
        assert f"'{heavy}'" not in modules
    if "--help" in arguments:
        assert "'hgsp_core.plugin.registry'" not in modules
        assert "'hgsp_llama'" not in modules


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "plan",
        "plugins list",
        "plugins show",
        "recipe init",
        "recipe validate",
        "recipe schema",
        "compare",
        "sweep",
        "prune",
        "finetune",
        "eval",
        *(f"baseline {name}" for name in ("wanda", "magnitude", "slimgpt", "shortgpt")),
    ],
)
def test_every_command_teaches_with_an_example_and_says_what_it_reads_and_writes(command):
    text = " ".join(CliRunner().invoke(app, [*command.split(), "--help"]).stdout.split())
    assert f"Example: hgsp {command}" in text
    assert "Reads" in text
    assert "Writes" in text or "writes" in text


def test_the_version_is_that_of_the_package(tmp_path):
    assert hgsp("--version", cwd=tmp_path).stdout == f"hgsp-core {__version__}\n"


def test_plugins_lists_every_method_under_its_kind(tmp_path):
    lines = hgsp("plugins", cwd=tmp_path).stdout.splitlines()
    assert lines == CliRunner().invoke(app, ["plugins", "list"]).stdout.splitlines()
    for entry in installed().entries:
        start = lines.index(f"{entry.kind}s")
        assert any(line.split()[:1] == [entry.name] for line in lines[start:]), entry


def test_broken_plugins_are_listed_with_their_reason_and_disturb_nobody(tmp_path):
    names = ("good", "fails_to_import", "misspells_a_hook", "doubles_its_own_name")
    done = hgsp("plugins", cwd=tmp_path, plugins=names)
    assert done.returncode == 0
    assert "hgsp-fails: ModuleNotFoundError: No module named 'a_package_that_nobody_has'" in done.stdout
    assert "hgsp-misspells: it implements 'hgsp_scorer', which is not a hook" in done.stdout
    assert "Did you mean 'hgsp_scorers'?" in done.stdout
    assert "hgsp-twice: it provides the scorer 'mine' twice" in done.stdout
    assert "first" in done.stdout
    assert "hgsp-good" in done.stdout


def test_show_tells_parameters_and_the_lines_for_a_recipe(tmp_path):
    done = hgsp("plugins", "show", "first", cwd=tmp_path, plugins=["good"])
    assert "power: number, above 0, at most 4; default 1.0" in done.stdout
    assert "how steeply importance falls" in done.stdout
    recipe = yaml.safe_load(done.stdout.partition("in a recipe\n")[2])
    assert recipe == {"score": {"use": "first", "with": {"power": 1.0}}}


def test_the_example_lines_of_every_method_are_a_valid_recipe():
    for entry in installed().entries:
        if entry.kind != "architecture":
            found = list(parameters(entry.method.params.model_json_schema()))
            lines = yaml.safe_load(example(entry.kind, entry.name, found))
            parse_recipe(yaml.safe_dump({"model": {"path": "x"}, "output": "y", **lines}), str(entry))


def _keys(value):
    """Every key of the mappings in a value; what stands under some is another's to name."""
    if isinstance(value, list):
        return set().union(*map(_keys, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(
        *(_keys(item) for key, item in value.items() if key not in ("schema", "default", "provides"))
    )


def test_list_as_json_has_what_the_table_has_under_the_keys_of_the_documentation(tmp_path):
    found = json.loads(hgsp("plugins", "list", "--json", cwd=tmp_path, plugins=["good", "fails_to_import"]).stdout)
    assert list(found) == ["installed", "not_installed", "broken"]
    there = {(e["kind"], e["name"], e["distribution"], e["summary"]) for e in found["installed"]}
    assert there >= {(e.kind, e.name, e.distribution, e.method.summary) for e in installed().entries}
    assert len(there) == len(found["installed"])
    reason = "ModuleNotFoundError: No module named 'a_package_that_nobody_has'"
    assert found["broken"] == [{"distribution": "hgsp-fails", "reason": reason}]
    documented = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in documented for key in _keys(found))


def test_list_as_json_names_what_is_known_and_not_installed(monkeypatch):
    core = [entry for entry in installed().entries if entry.distribution == "hgsp-core"]
    monkeypatch.setattr("hgsp_core.plugin.registry.installed", lambda: Registry(core))
    found = json.loads(CliRunner().invoke(app, ["plugins", "list", "--json"]).stdout)
    assert found["not_installed"] == catalogue()
    assert _keys(found["not_installed"]) == {"distribution", "summary", "status", "provides"}


def test_show_as_json_has_a_method_and_an_architecture_under_the_keys_of_the_documentation():
    documented = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    for entry in installed().entries:
        done = CliRunner().invoke(app, ["plugins", "show", f"{entry.distribution}/{entry.name}", "--json"])
        found = {item["kind"]: item for item in json.loads(done.stdout)["found"]}[entry.kind]
        assert all(f"`{key}`" in documented for key in _keys(found))
        assert (found["name"], found["summary"]) == (entry.name, entry.method.summary)
        if entry.kind == "architecture":
            assert [axis["name"] for axis in found["axes"]] == [axis.name for axis in entry.method.axes]
            assert (found["parameters"], found["schema"], found["recipe"]) == ([], None, None)
        else:
            assert found["schema"] == json.loads(json.dumps(entry.method.params.model_json_schema()))
            assert {p["key"].split(".")[0] for p in found["parameters"]} == set(found["schema"]["properties"])
            assert yaml.safe_load(found["recipe"])
            assert found["axes"] == []


def test_where_two_plugins_have_a_name_show_tells_both_and_how_to_name_each(tmp_path):
    text = hgsp("plugins", "show", "taylor", cwd=tmp_path, plugins=["doubles_a_name"]).stdout
    assert "use: hgsp-core/taylor" in text
    assert "use: hgsp-second-taylor/taylor" in text


def test_init_writes_a_valid_recipe_that_names_every_stage_and_never_overwrites(tmp_path):
    assert hgsp("recipe", "init", cwd=tmp_path).returncode == 0
    text = (tmp_path / "recipe.yaml").read_text()
    assert set(yaml.safe_load(text)) == set(Recipe.model_fields) - {"recover"}  # training is not part of a first run
    done = hgsp("recipe", "validate", "recipe.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "recipe.yaml: valid\n")
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(OutputError, match=r"'.*recipe.yaml' exists"):
        CliRunner().invoke(app, ["recipe", "init", str(tmp_path / "recipe.yaml")], catch_exceptions=False)
    assert (tmp_path / "recipe.yaml").read_text() == "mine"


def test_validate_names_the_faults_of_every_file(tmp_path):
    (tmp_path / "good.yaml").write_text(SMALL)
    (tmp_path / "bad.yaml").write_text(SMALL.replace("dataset:", "data:"))
    (tmp_path / "worse.yaml").write_text("[")
    done = hgsp("recipe", "validate", "bad.yaml", "good.yaml", "worse.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "good.yaml: valid\n")
    assert "bad.yaml: calibrate.data: unknown key." in done.stderr
    assert "worse.yaml: line 1" in done.stderr


def test_validate_tells_a_sweep_by_its_keys_and_checks_each_of_its_runs(tmp_path):
    base = yaml.safe_load(SMALL)
    sweep = {"base": base, "grid": {"allocate.with.ratio": [0.1, 0.2]}, "output": "out"}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(sweep | {"grid": {"allocate.with.ratio": [0.1, 2]}}))
    (tmp_path / "part.yaml").write_text(yaml.safe_dump({key: sweep[key] for key in ("grid", "output")}))
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(sweep | base))
    files = [f"{name}.yaml" for name in ("sweep", "bad", "part", "both")]
    done = hgsp("recipe", "validate", *files, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "sweep.yaml: valid, a sweep of 2 runs\n")
    assert "Error: bad.yaml: run 'ratio-2': allocate.with.ratio: Input should be less than 1 (given: 2)." in done.stderr
    assert "Error: part.yaml: base: this key is required." in done.stderr
    assert "both.yaml: model: unknown key." in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_validate_reads_a_recipe_or_a_sweep_that_is_piped_to_it(tmp_path):
    sweep = {"base": yaml.safe_load(SMALL), "grid": {"calibrate.seed": [0, 1]}, "output": "out"}
    for text, outcome in ((SMALL, "valid"), (yaml.safe_dump(sweep), "valid, a sweep of 2 runs")):
        command = [sys.executable, "-m", "hgsp_core", "recipe", "validate", "/dev/stdin"]
        done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"/dev/stdin: {outcome}\n"), done.stderr


def test_schema_lists_every_key_and_is_json_on_demand():
    lines = CliRunner().invoke(app, ["recipe", "schema"]).stdout.splitlines()
    for key, description, _ in describe(Recipe):
        assert f"{key}: {description}" in lines
    schema = json.loads(CliRunner().invoke(app, ["recipe", "schema", "--json"]).stdout)
    assert set(schema["properties"]) == {key for key, _, _ in describe(Recipe) if "." not in key}


def test_run_with_json_prints_the_report_and_nothing_else(ran, folder):
    report = json.loads(ran.stdout)
    assert report == json.loads((folder / "result" / "report.json").read_text())
    assert report["after"]["parameters"] < report["before"]["parameters"]
    assert set(report["after"]["perplexity"]) == {"pydoc"}


def test_a_run_leaves_every_file_that_it_promises(ran, folder):
    files = {p.name for p in (folder / "result").iterdir()}
    assert files == documented_files()
    assert sorted(p.name for p in folder.iterdir()) == ["result", "small.yaml"]
    assert hgsp("recipe", "validate", "result/recipe.yaml", cwd=folder).returncode == 0
    log = (folder / "result" / "run.log").read_text()
    for stage in json.loads(ran.stdout)["timings"]:
        assert f"{stage}: done" in log


def test_a_run_prints_the_table_what_it_reused_and_how_to_load_the_result(ran, folder):
    settings = ["--set", "allocate.with.ratio=0.3", "--output", "other", "--set", "evaluate=[]"]
    done = hgsp("run", "small.yaml", *settings, cwd=folder)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "other" / "report.json").read_text())
    before, after = report["before"], report["after"]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["parameters", f"{before['parameters']:,}", f"{after['parameters']:,}", "-30.0%"] in rows
    assert ["MACs", "per", "token"] in [row[:3] for row in rows]
    assert ["size", "on", "disk"] in [row[:3] for row in rows]
    assert report["reused"]
    assert done.stdout.count("Reused: ") == 1
    assert "Result: other" in done.stdout
    assert "Report: other/report.html" in done.stdout
    assert "Plan" in done.stderr
    assert "Traceback" not in done.stderr
    code = done.stdout.partition("Load it with:\n")[2]
    lines = "\n".join(line.strip() for line in code.splitlines())
    loaded = subprocess.run(
        [sys.executable, "-c", f"{lines}\nprint(model.num_parameters())"], cwd=folder, capture_output=True, text=True
    )
    assert loaded.stdout == f"{after['parameters']}\n", loaded.stderr


def test_plan_forecasts_what_the_run_then_costs_and_writes_nothing(ran, folder):
    files = sorted(folder.rglob("*"))
    done = hgsp("plan", "small.yaml", "--json", "--quiet", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(folder.rglob("*")) == files
    forecast, report = json.loads(done.stdout), json.loads(ran.stdout)
    for key in ("parameters", "layer_parameters", "macs", "kv_cache_bytes_per_token"):
        assert forecast["before"][key] == report["before"][key]
        assert forecast["after"][key] == report["after"][key]
    assert forecast["after"]["bytes"] == pytest.approx(report["after"]["bytes"], rel=0.01)  # a file also has a header
    made = json.loads((folder / "result" / "plan.json").read_text())
    assert sizes(forecast["plan"]) == sizes(made)  # the repair selects units again, as many
    assert {k: v for k, v in forecast["plan"].items() if k not in ("layers", "notes")} == {
        k: v for k, v in made.items() if k not in ("layers", "notes")
    }
    assert forecast["predicted_kl"] == report["predicted_kl"]
    assert forecast["reused"]


def sizes(plan):
    """Kept units of each block."""
    return [{axis: len(layer[axis]["kept"]) for axis in ("attention", "mlp")} for layer in plan["layers"]]


def test_plan_tells_people_what_stays_of_each_layer(ran, folder):
    done = hgsp("plan", "small.yaml", cwd=folder)
    rows = [line.split() for line in done.stdout.splitlines()]
    plan = json.loads((folder / "result" / "plan.json").read_text())
    for layer in plan["layers"]:
        sizes = [(str(len(layer[axis]["kept"])), "/", str(layer[axis]["of"])) for axis in ("attention", "mlp")]
        assert [str(layer["index"]), *sizes[0], *sizes[1]] in rows
    assert "KV cache per token" in done.stdout
    assert "Predicted: KL divergence" in done.stdout


def test_a_third_partys_scorer_is_used_by_name_and_its_prints_do_not_reach_stdout(folder):
    settings = ["--set", "score.use=first", "--set", "allocate={use: uniform, with: {ratio: 0.5}}"]
    done = hgsp("plan", "small.yaml", *settings, "--json", cwd=folder, plugins=["good", "fails_to_import"])
    assert done.returncode == 0, done.stderr
    layers = json.loads(done.stdout)["plan"]["layers"]
    for layer in layers:  # of what goes, the last goes first
        assert layer["mlp"]["kept"] == list(range(len(layer["mlp"]["kept"])))
        assert layer["attention"]["kept"] == list(range(len(layer["attention"]["kept"])))
    assert "a plugin that prints" in done.stderr
