"""The quality benchmark, run as its documentation says, on the demo model with few windows."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.command import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import tables

KEYS = {
    "model", "method", "of", "ratio", "achieved", "parameters", "ppl", "ppl_dense", "ppl_other_text", "seed", "seconds",
    "peak_bytes",
}  # fmt: skip


def benchmark(folder, *arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / "quality.py"), "--windows", "4", *arguments]
    command += ["--ratios", "20", "--json", str(folder / "rows.json"), "--markdown", str(folder / "table.md")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert not result.returncode, result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A benchmark of three methods, the first of which was run before the others."""
    folder = tmp_path_factory.mktemp("benchmark")
    benchmark(folder, "--methods", "magnitude")
    (folder / "second.log").write_text(benchmark(folder, "--methods", "magnitude", "wanda", "shortgpt"))
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    return {row["method"]: row for row in json.loads((folder / "rows.json").read_text())}


def test_each_method_has_one_complete_row(rows):
    assert rows.keys() == {"dense", "magnitude", "wanda", "shortgpt"}
    for method, row in rows.items():
        assert row.keys() >= (KEYS - {"seconds", "peak_bytes"} if method == "dense" else KEYS)
        assert row["model"] == "pydoc-llama"
        assert row["of"] == "layers"


def test_the_numbers_are_those_of_pruned_models(rows):
    dense = rows["dense"]
    assert dense["parameters"] == 2_374_080
    assert 10 < dense["ppl"] < 40
    for method in ("magnitude", "wanda"):
        assert 0.195 < rows[method]["achieved"] <= 0.2
        assert rows[method]["ppl"] > rows[method]["ppl_dense"] == dense["ppl"]
        assert rows[method]["parameters"] < dense["parameters"]
        assert rows[method]["peak_bytes"] > 2**26
    assert rows["shortgpt"]["achieved"] == pytest.approx(1 / 6, abs=1e-3)  # one whole layer of six


def test_methods_with_data_saw_the_same_tokens_and_the_others_none(rows):
    assert rows["magnitude"]["tokens_sha256"] is None
    assert rows["shortgpt"]["tokens_sha256"] == rows["wanda"]["tokens_sha256"] is not None


def test_rows_of_an_interrupted_benchmark_are_not_run_again(folder):
    log = (folder / "second.log").read_text()
    assert "wanda, 20%" in log
    assert "magnitude" not in log


def test_the_table_holds_every_method_and_the_best_only_of_those_that_reached_the_ratio(folder):
    table = (folder / "table.md").read_text()
    lines = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if line.startswith("| ")}
    assert {"magnitude", "wanda", "shortgpt"} <= lines.keys()
    assert table.count("**") == 2  # one best
    assert "**" not in lines["shortgpt"]


def row(method, ppl, ratio=0.2, seed=0, model="m", achieved=None, other=None):
    achieved = ratio if achieved is None else achieved
    found = {"model": model, "method": method, "ratio": ratio, "seed": seed, "ppl": ppl, "ppl_other_text": other}
    return found | {"achieved": achieved, "seconds": 1.0, "peak_bytes": 2**20, "parameters": 10}


def test_the_default_is_set_against_the_best_published_method_that_reached_the_ratio():
    rows = [
        row("dense", 10, 0), row("balanced", 12), row("best", 11), row("flap", 14), row("wanda", 20),
        row("shortgpt", 11, achieved=0.1), row("hgsp, T = 0", 11), row("dense", 20, 0, 1), row("balanced", 28, seed=1),
    ]  # fmt: skip
    table = tables.against_baselines(rows).splitlines()
    assert table == ["| model | 20% |", "|---|---|", "| m | 0.75 / 0.25 (flap) |"]  # (0.2 + 0.4) / 2 and 0.1, over 0.4


def test_a_part_is_weighed_on_the_seeds_that_both_methods_have():
    rows = [
        row("dense", 10, 0, other=100), row("balanced", 14, other=120), row("best", 12, other=130),
        row("balanced", 18, 0.5, other=120), row("best", 16.4, 0.5, other=110), row("dense", 10, 0, 1), row("balanced", 90, seed=1),
    ]  # fmt: skip
    last = tables.parts(rows).splitlines()[-1]
    assert last == "| gains | balanced → best | 0.63 | 2 of 2 | 1 of 2 |"  # √(0.2/0.4 · 0.64/0.8)
    assert len(tables.parts(rows).splitlines()) == 3
    assert tables.parts(rows[:2]) == ""


def test_rows_without_another_text_and_perfect_peers_leave_the_tables_whole():
    rows = [
        row("dense", 10, 0, other=100),
        row("flap", 14),
        row("balanced", 12, other=130),
        row("dense", 10, 0, 1),
        row("balanced", 13, seed=1),
    ]
    other = tables.markdown(rows).split("another kind of text")[1]
    assert "| balanced | **1.300** <sub>20.0%</sub> |" in other
    assert "flap" not in other
    assert tables.parts([*rows, row("best", 11, other=110)]).endswith("| 1 of 1 |")
    assert tables.against_baselines([row("dense", 10, 0), row("flap", 9.9), row("balanced", 9.8)]) == ""
