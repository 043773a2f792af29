"""The files of a run that people read say what the plan says."""

import csv
import json
import time

import numpy as np
import pytest

from hgsp_core.artifacts import Plan, Priors, Scores
from hgsp_core.artifacts.scales import Scales
from hgsp_core.report.diagnosis import diagnose
from hgsp_core.report.facts import RunFacts
from hgsp_core.report.files import summary, write_evaluation, write_removed_units, write_unit_table
from hgsp_core.report.outcome import analysis, comparison, outcomes
from hgsp_core.report.png import write_png
from hgsp_core.report.run_charts import layer_charts
from hgsp_core.report.tables import headline
from hgsp_core.runtime.recipe import Recipe
from tests.helpers.allocate_models import llama

RECIPE = Recipe(model={"path": "models/tiny"}, output="results/tiny")
REPORT = {"before": {"perplexity": {"pydoc": 20.0}}, "after": {"perplexity": {"pydoc": 25.0}}}


def measured(layout, seed=0):
    """Scores of random importance, and a plan that keeps the better three quarters of each block but two."""
    rng = np.random.default_rng(seed)
    importance = [{n: rng.lognormal(size=b.units) for n, b in layer.blocks.items()} for layer in layout.layers]
    scores = Scores.of(layout, importance)
    kept = {}
    for block in layout.blocks():
        units = scores.units_of(block.layer, block.axis.name)
        kept[block.layer, block.axis.name] = np.sort(np.argsort(scores.score[units])[block.units // 4 :])
    kept[1, "attention"] = kept[1, "mlp"] = ()
    return scores, Plan.of(layout, kept, layout.layer_parameters, notes=("Layer 1 was removed whole.",))


def facts(layout, priors=None, report=REPORT):
    scores, plan = measured(layout)
    diagnosis = diagnose(
        RECIPE, layout, plan, scores, Scales.of_scores(scores, len(layout.layers)), lambda recipe: (scores, plan)
    )
    return RunFacts(RECIPE, layout, plan, scores, priors, report, diagnosis)


@pytest.fixture
def small():
    return llama(layers=4, hidden=32, heads=8, kv_heads=4, channels=24, vocab=50, head_dim=4, bias=True)


def test_the_unit_table_lists_every_unit_once_with_what_became_of_it(small, tmp_path):
    run = facts(small)
    scores, plan = run.scores, run.plan
    write_unit_table(tmp_path / "table.csv", run)
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["layer", "kind", "index", "importance", "cost", "score", "kept"]
    assert len(rows) == len({(r["layer"], r["kind"], r["index"]) for r in rows}) == sum(b.units for b in small.blocks())
    for block in small.blocks():
        own = [r for r in rows if (r["layer"], r["kind"]) == (str(block.layer), block.axis.name)]
        assert tuple(int(r["index"]) for r in own if r["kept"] == "1") == plan.block(block).kept
        assert {r["kept"] for r in own} <= {"0", "1"}
        assert {int(r["cost"]) for r in own} == {block.unit_cost}
    assert [float(r["score"]) for r in rows] == scores.score.tolist()  # nothing is lost in print
    assert [float(r["importance"]) for r in rows] == scores.importance.tolist()


def test_the_unit_table_of_an_8b_model_takes_seconds(tmp_path):
    layout = llama(layers=32, hidden=4096, heads=32, kv_heads=8, channels=14336, vocab=128256, head_dim=128)
    run = facts(layout)
    start = time.process_time()
    write_unit_table(tmp_path / "table.csv", run)
    assert time.process_time() - start < 5
    assert sum(1 for _ in (tmp_path / "table.csv").open()) == 1 + 32 * (8 + 14336)


def test_the_summary_adds_up(small):
    priors = Priors(np.array([0.5, 0.25, 0.125, np.nan]), {"attention": np.full(4, 0.75)})
    run = facts(small, priors)
    plan, lines = run.plan, summary(run).splitlines()
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[3:7]]
    assert [row[0] for row in cells] == ["0", "1", "2", "3"]
    assert cells[0][1:3] == ["3 / 4", "18 / 24"]
    assert cells[1][1:3] == ["0 / 4", "0 / 24"]
    assert [int(row[3].replace(",", "")) for row in cells] == [layer.cost for layer in small.layers]
    after = [int(row[4].replace(",", "")) for row in cells]
    outside = small.parameters - small.layer_parameters
    assert sum(after) + outside == plan.parameters_after(small)
    assert cells[1][5] == "100.0%"
    assert [row[6] for row in cells] == ["0.5", "0.25", "0.125", "-"]
    assert f"Removed {plan.removed(small):,} of the {small.layer_parameters:,} parameters in the budget:" in lines
    assert any(line.split() == ["perplexity,", "pydoc", "20.00", "25.00", "+25.0%"] for line in lines)
    assert any(line.endswith("Layer 1 was removed whole.") for line in lines)
    assert "Finding (critical): More than half of early layers removed. See gradient_diagnosis.json." in lines
    assert not any(line != line.rstrip() for line in lines)


def test_the_picture_of_the_layers_shows_both_kinds_of_block(small, tmp_path):
    from matplotlib.image import imread

    write_png(tmp_path / "layers.png", layer_charts(facts(small)), "tiny")
    pixels = (imread(tmp_path / "layers.png")[..., :3] * 255).round().astype(int)
    height = len(pixels)

    def area(colour, part):
        return (np.abs(part - np.array(colour)).max(axis=-1) <= 2).mean()

    blue, orange, grey = (0, 114, 178), (224, 142, 0), (230, 233, 237)  # c1, c2 and gone of page.css
    top, bottom = pixels[: height // 2], pixels[height // 2 :]
    assert area(blue, top) > 0.2
    assert area(orange, top) == 0
    assert area(orange, bottom) > 0.2
    assert area(blue, bottom) == 0
    # a quarter of three layers and all of the fourth are gone: grey is 7/9 of what is coloured
    assert area(grey, top) / area(blue, top) == pytest.approx(7 / 9, rel=0.15)


def test_the_removed_units_are_those_that_go_lowest_first(small, tmp_path):
    run = facts(small)
    write_unit_table(tmp_path / "all.csv", run)
    write_removed_units(tmp_path / "gone.csv", run)
    every, gone = (list(csv.DictReader((tmp_path / name).open())) for name in ("all.csv", "gone.csv"))
    assert [float(r["score"]) for r in gone] == sorted(float(r["score"]) for r in every if r["kept"] == "0")
    assert {(r["layer"], r["kind"], r["index"]) for r in gone} == {
        (r["layer"], r["kind"], r["index"]) for r in every if r["kept"] == "0"
    }


def test_the_comparison_and_the_analysis_add_up_to_the_plan(small):
    _, plan = measured(small)
    sizes, found = comparison(small, plan), analysis(small, plan)
    outside = small.parameters - small.layer_parameters
    for side in ("before", "after"):
        assert sum(layer[side]["parameters"] for layer in sizes["layers"]) + outside == sizes["parameters"][side]
        for layer in sizes["layers"]:
            assert (
                layer[side]["attention"]["parameters"] + layer[side]["mlp"]["parameters"] == layer[side]["parameters"]
            )
    assert sizes["parameters"] == {"before": small.parameters, "after": plan.parameters_after(small)}
    first = sizes["layers"][0]
    assert first["before"]["attention"] | {"parameters": 0} == {"parameters": 0, "units": 4, "query_heads": 8}
    assert first["after"]["attention"] | {"parameters": 0} == {"parameters": 0, "units": 3, "query_heads": 6}
    assert (first["before"]["mlp"]["units"], first["after"]["mlp"]["units"]) == (24, 18)

    assert (
        found["removed"]["parameters"]
        == plan.removed(small)
        == sum(kind["parameters_removed"] for kind in found["kinds"].values())
    )
    assert found["layers_removed_whole"] == [1]
    assert found["kinds"]["attention"]["blocks_removed_whole"] == [1]
    assert found["kinds"]["mlp"]["units_removed"] == 3 * 6 + 24
    assert found["rate"]["largest"] == 1
    assert found["rate"]["spread"] == 1 - found["rate"]["smallest"]
    assert [layer["rate"] for layer in found["layers"]] == [layer["removed"] for layer in sizes["layers"]]


def test_query_heads_that_go_alone_are_counted(small):
    kept = {(b.layer, b.axis.name): range(b.units) for b in small.blocks()}
    plan = Plan.of(small, kept, 0, heads={(2, "attention"): [[0]] * 4})
    layer = outcomes(small, plan)[2]
    assert layer.blocks["attention"].text() == "4 / 4 (4 / 8 heads)"
    assert layer.blocks["mlp"].text() == "24 / 24"
    assert 0 < layer.rate < 1
    assert layer.after == layer.before - 4 * small.layers[2].blocks["attention"].head_cost


def test_what_was_measured_stands_apart_from_what_was_counted(small, tmp_path):
    before = {"parameters": 9, "bytes": 4, "perplexity": {"pydoc": 20.0}, "perplexity_protocol": {"seq_len": 128}}
    run = facts(small, report={**REPORT, "before": before, "after": {"parameters": 8}})
    write_evaluation(tmp_path / "evaluation.json", run)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["before"] == {"perplexity": {"pydoc": 20.0}, "perplexity_protocol": {"seq_len": 128}}
    assert found["after"] is None
    assert found["evaluate"] == []


def test_the_headline_has_a_row_for_each_cost_and_each_measurement():
    before = {"parameters": 2_000_000, "macs": 3e9, "bytes": 8_000_000, "perplexity": {"pydoc": 20.0, "own": 1e7}}
    after = {"parameters": 1_500_000, "macs": 1.5e9, "bytes": 6_000_000, "perplexity": {"pydoc": 25.0, "own": 3e7}}
    before["tokens_per_second"], after["tokens_per_second"] = 0.5, 0.75
    assert [row.cells() for row in headline({"before": before, "after": after})] == [
        ("parameters", "2,000,000", "1,500,000", "-25.0%"),
        ("MACs per token", "3.000 billion", "1.500 billion", "-50.0%"),
        ("size on disk", "8.00 MB", "6.00 MB", "-25.0%"),
        ("perplexity, pydoc", "20.00", "25.00", "+25.0%"),
        ("perplexity, own", "1.00e+07", "3.00e+07", "×3.0"),
        ("tokens_per_second", "0.5", "0.75", "+50.0%"),
    ]
