"""A sweep file: which runs it stands for, and what in it is refused before anything starts."""

import pytest
import yaml
from typer.testing import CliRunner

from hgsp_core.cli import app
from hgsp_core.errors import HgspError
from hgsp_core.sweeps.cells import load_grid
from tests.helpers.command import MODEL, ROOT

BASE = {
    "model": {"path": str(MODEL)},
    "calibrate": {"dataset": "pydoc", "samples": 4, "seq_len": 32},
    "allocate": {"use": "hgsp", "with": {"ratio": 0.2}},
}
METHODS = [
    {"name": "plain", "set": {"allocate.with.temperature": 0}},
    {"name": "even", "set": {"allocate": {"use": "uniform"}}},
]


def written(tmp_path, **parts):
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"base": BASE, "output": str(tmp_path / "out"), **parts}, sort_keys=False))
    return path


def test_every_combination_is_a_run_with_a_readable_name_and_its_own_directory(tmp_path):
    grid = load_grid(
        written(
            tmp_path, variants={"method": METHODS}, grid={"allocate.with.ratio": [0.1, 0.3], "calibrate.seed": [0, 7]}
        )
    )
    assert [cell.name for cell in grid.cells] == [
        f"{method}_ratio-{ratio}_seed-{seed}" for method in ("plain", "even") for ratio in (0.1, 0.3) for seed in (0, 7)
    ]
    first, last = grid.cells[0].recipe, grid.cells[-1].recipe
    assert (first.allocate.use, first.allocate.with_, first.calibrate.seed) == (
        "hgsp",
        {"ratio": 0.1, "temperature": 0},
        0,
    )
    assert (last.allocate.use, last.allocate.with_, last.calibrate.seed) == ("uniform", {"ratio": 0.3}, 7)
    assert last.output == str(tmp_path / "out" / "runs" / "even_ratio-0.3_seed-7")


def test_what_varies_is_called_by_what_tells_it_apart(tmp_path):
    values = {
        "score.use": ["taylor", "magnitude"],  # methods by their name alone
        "normalize": [[], [{"use": "clip"}, {"use": "log"}]],
        "allocate.with.tau": ["auto", 0.5],
        "calibrate.samples": [4],
        "prior": [
            {"use": "removal", "with": {"samples": 2}},
            {"use": "removal", "with": {"samples": 3}},
        ],  # equal names: numbered
    }
    names = [cell.name for cell in load_grid(written(tmp_path, grid=values)).cells]
    assert names[0] == "taylor_normalize-none_tau-auto_samples-4_removal-1"
    assert names[-1] == "magnitude_normalize-clip+log_tau-0.5_samples-4_removal-2"


def test_the_base_may_be_a_file_beside_the_sweep_and_needs_no_model_of_its_own(tmp_path):
    (tmp_path / "part.yaml").write_text(yaml.safe_dump({k: v for k, v in BASE.items() if k != "model"}))
    grid = load_grid(written(tmp_path, base="part.yaml", grid={"model.path": [str(MODEL), "owner/other"]}))
    assert [cell.name for cell in grid.cells] == ["pydoc-llama", "other"]
    assert (
        yaml.safe_load(grid.text)["base"]["calibrate"]["samples"] == 4
    )  # the sweep's record does not depend on the file


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"grid": {"alocate.with.ratio": [0.1]}},
            "grid: 'alocate.with.ratio' is not a recipe key. Did you mean 'allocate'?",
        ),
        (
            {"grid": {"allocate.with.ratoi": [0.1]}},
            "run 'ratoi-0.1': allocate.with.ratoi: unknown key. Did you mean 'ratio'?",
        ),
        (
            {"grid": {"allocate.with.ratio": [0.1, "high"]}},
            "run 'ratio-high': allocate.with.ratio: Input should be a valid number",
        ),
        (
            {"grid": {"score.use": ["tayler"]}},
            "run 'tayler': score.use: There is no scorer 'tayler'. Did you mean 'taylor'?",
        ),
        ({"grid": {"evaluate.3.use": ["perplexity"]}}, "run 'perplexity': evaluate: Input should be a valid tuple"),
        ({"grid": {"output": ["a", "b"]}}, "grid: 'output' cannot vary"),
        ({"grid": {"calibrate.seed": []}}, "grid: Value error, 'calibrate.seed' has no values"),
        ({"grid": {"calibrate.seed": [1, 1]}}, "the runs 'seed-1-1' and 'seed-1-2' have the same recipe"),
        ({"grid": {"allocate.with.ratio": [0.2, 0.20]}}, "have the same recipe"),
        ({"grid": {}}, "nothing varies"),
        ({"gird": {"calibrate.seed": [1]}}, "gird: unknown key. Did you mean 'grid'?"),
        ({"variants": {"method": METHODS * 2}}, "variants.method: two variants are called 'plain'"),
        (
            {"variants": {"method": [{"name": "a/b", "set": {"calibrate.seed": 1}}]}},
            "variants.method.0.name: String should match",
        ),
        ({"variants": {"method": [{"name": "a", "sett": {}}]}}, "variants.method.0.sett: unknown key."),
        (
            {"variants": {"a": [{"name": "x", "set": {"calibrate.seed": 1}}]}, "grid": {"calibrate.seed": [2]}},
            "'calibrate.seed' is set by variants.a and by grid",
        ),
        ({"base": "nowhere.yaml", "grid": {"calibrate.seed": [1]}}, "nowhere.yaml: no such recipe"),
        ({"base": {}, "grid": {"calibrate.seed": [1]}}, "run 'seed-1': model: this key is required"),
    ],
)
def test_a_faulty_sweep_is_refused_with_the_place_and_nothing_is_written(tmp_path, parts, message):
    path = written(tmp_path, **parts)
    with pytest.raises(HgspError) as refusal:
        load_grid(path)
    assert message in str(refusal.value)
    assert str(refusal.value).startswith((str(path), str(tmp_path / "nowhere.yaml")))
    done = CliRunner().invoke(app, ["sweep", str(path)])
    assert isinstance(done.exception, HgspError)
    checked = CliRunner().invoke(app, ["recipe", "validate", str(path)])
    assert (checked.exit_code, checked.stdout, checked.stderr) == (2, "", f"Error: {refusal.value}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["sweep.yaml"]


def test_the_headline_sweep_is_three_models_by_three_methods_by_fifteen_settings_on_fifteen_measurements():
    from hgsp_core.sweeps.shared import groups_of

    cells = load_grid(ROOT / "recipes" / "sweeps" / "headline.yaml").cells
    assert len(cells) == 135
    assert len(groups_of(cells)) == 15
    assert {len(group.cells) for group in groups_of(cells)} == {9}


def test_the_sweep_in_the_documentation_is_valid(tmp_path):
    text = (ROOT / "docs" / "compare-and-sweep.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "sweep.yaml").write_text(text.replace("../demo.yaml", str(ROOT / "recipes" / "demo.yaml")))
    cells = load_grid(tmp_path / "sweep.yaml").cells
    assert len(cells) == 12
    assert "uniform-wanda_ratio-0.2_seed-1" in [cell.name for cell in cells]
