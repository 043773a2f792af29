"""`hgsp compare`: the numbers of real runs in one table, and what is said where they cannot be compared."""

import csv
import io
import json
import shutil

import pytest
from typer.testing import CliRunner

from hgsp_core.cli import app
from hgsp_core.pipeline import run
from hgsp_core.report.comparison import run_table
from hgsp_core.report.errors import CompareError
from hgsp_core.report.pareto import front
from hgsp_core.report.runs import comparison, load_runs, short_names
from hgsp_core.runtime.errors import OutputError
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.runtime.store import Store
from tests.helpers.command import MODEL

BASE = f"""
model: {{path: {MODEL}}}
calibrate: {{dataset: pydoc, samples: 4, seq_len: 32}}
score: {{use: wanda}}
allocate: {{use: uniform, with: {{ratio: 0.2, of: layers}}}}
reconstruct: {{use: none}}
evaluate: [{{use: perplexity, with: {{datasets: [pydoc], seq_len: 64, max_windows: 4}}}}]
export: []
"""
#: run -> how it differs from the base
RUNS = {
    "even": [],
    "even-30": ["allocate.with.ratio=0.3"],
    "own": ["calibrate.samples=6"],
    "weights": ["score.use=magnitude", "evaluate.0.with.seq_len=32"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    for name, settings in RUNS.items():
        run(
            parse_recipe(BASE, name, [f"output={path / 'runs' / name}", *settings]), LogMonitor(), Store(path / "store")
        )
    return path / "runs"


@pytest.fixture(scope="module")
def compared(folder):
    return comparison(load_runs([folder / name for name in RUNS]))


def report(folder, name):
    return json.loads((folder / name / "report.json").read_text())


def hgsp(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def test_the_table_has_the_numbers_of_the_reports_under_the_dense_row(folder, compared):
    dense, *rows = run_table(compared).records()
    assert dense["run"] == "dense"
    assert dense["parameters"] == report(folder, "even")["before"]["parameters"]
    assert sorted(row["run"] for row in rows) == sorted(RUNS)
    for row in rows:
        given = report(folder, row["run"])
        before, after = given["before"], given["after"]
        assert row["parameters"] == after["parameters"]
        assert row["bytes"] == after["bytes"]
        assert row["perplexity, pydoc"] == after["perplexity"]["pydoc"]
        assert row["perplexity, pydoc / dense"] == after["perplexity"]["pydoc"] / before["perplexity"]["pydoc"]
        assert row["ratio_asked"] == given["recipe"]["allocate"]["with"]["ratio"]
        assert row["ratio_of"] == "layers"
        assert row["ratio_achieved"] == 1 - after["layer_parameters"] / before["layer_parameters"]
        assert 0 < row["prune_seconds"] <= sum(given["timings"].values()) + given["reused_seconds"]
        assert row["prune_memory_bytes"] == given["peak_memory_bytes"]
    assert {row["run"]: row["method"] for row in rows}["weights"] == "magnitude + uniform"


def test_terminal_markdown_csv_html_and_json_tell_the_same(folder):
    paths = [folder / name for name in RUNS]
    texts = {form: hgsp(*paths, *form).stdout for form in [(), ("--markdown",), ("--csv",), ("--html",), ("--json",)]}
    for name in RUNS:
        perplexity = f"{report(folder, name)['after']['perplexity']['pydoc']:,.2f}"
        for form in [(), ("--markdown",), ("--html",)]:
            assert name in texts[form]
            assert perplexity in texts[form]
    rows = list(csv.DictReader(io.StringIO(texts["--csv",])))
    records = json.loads(texts["--json",])["runs"]
    assert [row["run"] for row in rows] == [record["run"] for record in records]
    assert [float(row["perplexity, pydoc"]) for row in rows] == [record["perplexity, pydoc"] for record in records]
    assert "<script" not in texts["--html",]
    assert "http" not in texts["--html",]


def test_what_was_found_in_the_store_counts_as_long_as_it_took(folder):
    """`even-30` found all that `even` had measured: alone it would have taken (about) as long."""
    first, second = report(folder, "even"), report(folder, "even-30")
    assert first["reused_seconds"] == 0
    assert second["reused_seconds"] > 0
    measuring = sum(first["timings"][stage] for stage in ("Calibrate", "Load", "Sweep"))
    assert second["reused_seconds"] == pytest.approx(measuring, rel=0.2, abs=0.05)


def test_a_method_with_calibration_settings_of_its_own_is_flagged(compared):
    assert compared.own_calibration == {"own"}
    (warning,) = [text for text in compared.warnings if "token sets" in text]
    assert "pydoc-llama was calibrated on 2 different token sets" in warning
    assert "own: settings of its own." in warning
    rows = {row["run"]: row for row in run_table(compared).records()}
    assert rows["even"]["calibration"] == rows["even-30"]["calibration"] == "A"
    assert rows["own"]["calibration"] == "B"
    assert rows["weights"]["calibration"] is None  # it needs no data
    assert rows["own"]["settings"] == "samples=6"
    assert run_table(compared).footnotes()[0].startswith("* calibration")


def test_another_protocol_is_named_with_its_runs(compared):
    (warning,) = [text for text in compared.warnings if "not measured alike" in text]
    assert "perplexity, pydoc was not measured alike" in warning
    assert "seq_len 64" in warning
    assert "seq_len 32" in warning
    assert "(weights)" in warning


def test_runs_that_share_everything_get_no_warning(folder):
    assert comparison(load_runs([folder / "even", folder / "even-30"])).warnings == []


def changed(folder, tmp_path, name, change):
    """A copy of the run `even` with a change in its files."""
    shutil.copytree(folder / "even", tmp_path / name)
    given = {file: json.loads((tmp_path / name / file).read_text()) for file in ("report.json", "plan.json")}
    change(given["report.json"], given["plan.json"])
    for file, content in given.items():
        (tmp_path / name / file).write_text(json.dumps(content))
    return tmp_path / name


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (lambda r, p: p["model"].update(fingerprint="0" * 64), "is not the same model in all runs"),
        (
            lambda r, p: r["recipe"]["model"].update(dtype="bfloat16"),
            "was pruned in different dtypes: auto, bfloat16",
        ),
        (lambda r, p: r["recipe"].update(recover={"use": "lora", "with": {}}), "other: trained after the cut (lora)"),
        (
            lambda r, p: r["recipe"]["allocate"]["with"].update(ratio=0.4),
            "other: removed 20.0% of layers, 40.0% were asked for.",
        ),
    ],
)
def test_what_else_cannot_be_compared_is_named(folder, tmp_path, change, warning):
    other = changed(folder, tmp_path, "other", change)
    assert any(warning in text for text in comparison(load_runs([folder / "even", other])).warnings)


def test_the_best_of_each_budget_met_it(folder, compared, tmp_path):
    best = {budget: run for budget, run, _ in compared.best()}
    assert set(best) == {"0.2 of layers", "0.3 of layers"}
    assert best["0.3 of layers"].name == "even-30"
    perplexities = {name: report(folder, name)["after"]["perplexity"]["pydoc"] for name in ("even", "own", "weights")}
    assert best["0.2 of layers"].name == min(perplexities, key=perplexities.get)

    def cheat(given, plan):  # best of all, and short of what was asked for
        given["after"]["perplexity"]["pydoc"] = 1.0
        given["recipe"]["allocate"]["with"]["ratio"] = 0.3

    cheating = changed(folder, tmp_path, "cheating", cheat)
    best = {budget: run.name for budget, run, _ in comparison(load_runs([folder / "even-30", cheating])).best()}
    assert best["0.3 of layers"] == "even-30"


def test_sorting_is_by_any_column_below_the_dense_row(folder):
    paths = [folder / name for name in RUNS]
    rows = json.loads(hgsp(*paths, "--json", "--sort", "× dense").stdout)["runs"]
    factors = [row["perplexity, pydoc / dense"] for row in rows]
    assert rows[0]["run"] == "dense"
    assert factors[1:] == sorted(factors[1:])
    failed = hgsp(*paths, "--sort", "paramters")
    assert isinstance(failed.exception, CompareError)
    assert "Did you mean 'parameters'?" in str(failed.exception)


def test_infinite_perplexity_is_shown_and_left_out_of_the_plots(folder, tmp_path):
    broken = changed(folder, tmp_path, "broken", lambda r, p: r["after"]["perplexity"].update(pydoc="inf"))
    page = hgsp(folder / "even", broken, "--html").stdout
    assert "<td>inf</td>" in page
    assert "broken: " not in page


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: None, "There is no run directory"),
        (lambda d: d.mkdir(), "has no report.json, so it is not a finished run"),
        (lambda d: d.with_name(f".{d.name}.partial").mkdir(), "is not finished: it still runs or was killed"),
        (lambda d: (d.mkdir(), (d / "report.json").write_text('{"before": ')), "report.json' cannot be read"),
        (
            lambda d: (d.mkdir(), (d / "report.json").write_text("{}"), (d / "plan.json").write_text("{}")),
            "is not from a run",
        ),
    ],
)
def test_what_is_no_finished_run_is_refused_in_one_message(tmp_path, make, message):
    make(tmp_path / "run")
    failed = hgsp(tmp_path / "run")
    assert isinstance(failed.exception, CompareError)
    assert message in str(failed.exception)
    assert failed.stdout == ""


def test_a_file_is_written_whole_and_never_over_another(folder, tmp_path):
    done = hgsp(folder / "even", "--html", "-o", tmp_path / "page.html")
    assert done.exit_code == 0
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    (tmp_path / "page.html").write_text("mine")
    failed = hgsp(folder / "even", "--html", "-o", tmp_path / "page.html")
    assert isinstance(failed.exception, OutputError)
    assert (tmp_path / "page.html").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert hgsp(folder / "even", "-o", tmp_path / "x").exit_code == 2  # which form?


def test_comparing_imports_no_torch(folder):
    import subprocess
    import sys

    code = "import sys; from hgsp_core.cli import app; app(sys.argv[1:], standalone_mode=False); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "compare", folder / "even"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_the_front_is_every_run_that_no_other_one_equals_or_beats():
    dots = [(3, 1.0, "a"), (1, 3.0, "b"), (2, 2.0, "c"), (2, 2.5, "d"), (3, 1.5, "e"), (4, 1.0, "f")]
    assert [name for _, _, name in front(dots)] == ["b", "c", "a"]
    for x, y, name in dots:
        beaten = any(u <= x and v <= y and (u, v) != (x, y) for u, v, _ in dots)
        assert beaten == (name not in "bca")


def test_settings_are_named_as_shortly_as_they_can_be_told_apart():
    keys = ["calibrate.seed", "calibrate.samples", "prior.with.samples", "allocate.with.limits.low"]
    assert list(short_names(keys).values()) == ["seed", "calibrate.samples", "prior.samples", "low"]
