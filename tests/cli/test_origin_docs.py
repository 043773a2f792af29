"""docs/from-the-scripts.md: the old command lines in it work, and every flag is in its tables."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from hgsp_core.cli import baseline, finetune, prune
from hgsp_core.cli import eval as eval_command
from hgsp_core.plugin.deprecations import RENAMED
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.sweeps.cells import load_grid
from tests.cli.test_origin import PRUNE
from tests.cli.test_origin_models import EVAL, FINETUNE
from tests.helpers.command import ROOT

TEXT = (ROOT / "docs" / "from-the-scripts.md").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r"^\| `([\w/]+\.(?:py|sh))` \| `([^`]+)`", TEXT, re.MULTILINE))
LINES = re.findall(r"^    old: python (\S+) (.*)\n    new: hgsp (.*)$", TEXT, re.MULTILINE)


def test_every_script_has_a_command_and_a_line():
    assert len(SCRIPTS) == 11
    assert {script for script, *_ in LINES} == set(SCRIPTS) - {"scripts/run_all_experiments.sh"}
    assert TEXT.count("    old: ") == len(LINES)


@pytest.mark.parametrize(("script", "old", "new"), LINES, ids=[f"{i} {line[0]}" for i, line in enumerate(LINES)])
def test_an_old_line_and_the_new_one_stand_for_the_same_recipe(script, old, new, said):
    """The old arguments behind the new command; one warning for each old name. The new line prints none."""
    code, by_new, err = said(*shlex.split(new), "--print-recipe")
    assert code == 0, err
    assert "Warning: " not in err, err
    command = shlex.split(SCRIPTS[script])[1:]
    code, by_old, err = said(*command, *shlex.split(old), "--print-recipe")
    assert code == 0, err
    assert by_old == by_new
    renamed = [
        r for r in RENAMED if f"{r.old} {'|'.join(r.values)}" in old or any(f"{r.old} {v}" in old for v in r.values)
    ]
    assert err.count("Warning: ") == len({entry.old for entry in renamed})
    recipe = yaml.safe_load(by_new)
    if command[0] in ("prune", "baseline"):
        parse_recipe(by_new, "printed")
    else:  # only a part is printed
        parse_recipe(yaml.safe_dump({"model": {"path": "m"}, "output": "o", **recipe}), "printed")


def test_the_matrix_of_experiments_is_a_sweep():
    sweep = SCRIPTS["scripts/run_all_experiments.sh"].removeprefix("hgsp sweep ")
    assert len(load_grid(ROOT / Path(sweep), None).cells) > 1


def rows(title):
    """Flags named in a row's first cell -> the row."""
    table = TEXT.partition(f"<!-- flags: of {title}")[2].partition("\n## ")[0].partition("\n### ")[0]
    cells = [line.split("|")[1:4] for line in table.splitlines() if line.startswith("| `")]
    return {flag: row for row in cells for flag in re.findall(r"`(--\w+)", row[0].partition("(")[0])}


@pytest.mark.parametrize(
    ("title", "panels", "cases", "part"),
    [
        ("hgsp prune", (*prune.PANELS, baseline.LAYERS), PRUNE, ""),
        ("hgsp finetune", (finetune.PANEL,), FINETUNE, "recover."),
        ("hgsp eval", (eval_command.PANEL,), EVAL, "evaluate."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_flag_is_documented_with_the_key_that_it_sets(title, panels, cases, part):
    documented = rows(title)
    flags = {flag.name for panel in panels for flag in panel.flags}
    assert flags <= set(documented)
    for case, keys in cases.items():
        words = [word for word in case.split() if word.startswith("--")]
        if len(words) == 1 and words[0] in flags and words[0] not in ("--head_dim", "--gqa_ratio"):
            cell = documented[words[0]][1]
            assert any(f"`{part}{key}`" in cell for key in keys), f"{case}: {keys} not in {cell}"


def test_every_old_name_is_documented_beside_the_new_one():
    documented = rows("hgsp prune")
    for entry in filter(lambda entry: entry.is_flag, RENAMED):
        assert f"`{entry.old}" in documented[entry.new][0]
