"""A run calibrated on two kinds of text: its report, its page, its card and a comparison say so."""

import json

import pytest

from hgsp_core import run
from hgsp_core.report.comparison import run_table
from hgsp_core.report.runs import comparison, load_runs
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.runtime.store import Store
from tests.helpers.command import MODEL

STAR = "* measured on a text that the model was not calibrated on."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, line in (
        ("numbers", "In line {} stands the number {}, and nothing else."),
        ("birds", "{} birds, {} eggs."),
    ):
        (folder / f"{name}.txt").write_text("\n".join(line.format(i, i * i) for i in range(2000)))
    return folder


def pruned(folder, name, dataset, *settings):
    texts = ["pydoc", str(folder / "numbers.txt"), {"use": str(folder / "birds.txt"), "name": "birds"}]
    text = json.dumps(
        {
            "model": {"path": str(MODEL)},
            "calibrate": {"dataset": dataset, "samples": 16, "seq_len": 32},
            "evaluate": [{"use": "perplexity", "with": {"datasets": texts, "max_windows": 8}}],
            "output": str(folder / name),
        }
    )
    return run(parse_recipe(text, "r", settings), LogMonitor(), Store(folder / "store"))


@pytest.fixture(scope="module")
def both(folder):
    return pruned(folder, "both", [{"use": "pydoc", "share": 3}, str(folder / "numbers.txt")])


@pytest.fixture(scope="module")
def one(folder):
    return pruned(folder, "one", "pydoc")


def test_the_report_has_each_text_with_its_windows(folder, both):
    assert both["calibration"]["windows"] == {"pydoc": 12, str(folder / "numbers.txt"): 4}
    assert both["calibration"]["samples"] == 16


@pytest.mark.parametrize("file", ["report.html", "pruning_summary_by_layer.txt"])
def test_the_files_of_a_run_say_what_it_was_calibrated_on_and_what_not(folder, both, file):
    said = (folder / "both" / file).read_text()
    assert f"Calibrated on pydoc (12 windows), {folder / 'numbers.txt'} (4 windows)." in said
    assert STAR in said
    assert "perplexity, birds *" in said
    assert "perplexity, pydoc *" not in said
    assert "numbers.txt *" not in said


def test_the_card_says_it_without_local_paths(folder, both):
    said = (folder / "both" / "model" / "README.md").read_text()
    assert "Calibrated on windows of 32 tokens (seed 0): 12 of `pydoc`, 4 of `numbers.txt`." in said
    assert "perplexity, birds \\*" in said
    assert f"\\{STAR}" in said
    assert str(folder) not in said


def test_a_run_on_one_text_says_that_others_may_lose_more(folder, one):
    said = (folder / "one" / "report.html").read_text()
    assert "Calibrated on pydoc only. Text of other kinds may lose more; calibrate.dataset takes several texts." in said
    assert "numbers.txt *" in said


def test_the_same_run_finds_both_texts_in_the_store(folder, both):
    dataset = both["recipe"]["calibrate"]["dataset"]
    again = pruned(folder, "again", dataset, "evaluate=[]", "export=[]", "allocate.with.ratio=0.1")
    names = {"calibration pydoc", f"calibration {folder / 'numbers.txt'}"}
    assert names <= set(again["reused"])
    assert again["calibration"] == both["calibration"]


def test_a_comparison_marks_what_a_run_was_not_calibrated_on(folder, both, one):
    compared = comparison(load_runs([folder / "both", folder / "one"]))
    table = run_table(compared)
    columns, cells = table.shown()
    starred = {
        (row[0], column.title.rpartition("/")[2])
        for row in cells
        for column, cell in zip(columns, row, strict=True)
        if cell.endswith(" *") and column.title.startswith("ppl ")
    }
    assert starred == {("both", "ppl birds"), ("one", "ppl birds"), ("one", "numbers.txt")}
    assert table.footnotes()[-1] == STAR
    [warning] = [w for w in compared.warnings if "different token sets" in w]
    assert f"pydoc (12 windows), {folder / 'numbers.txt'} (4 windows), 16 x 32 tokens" in warning
