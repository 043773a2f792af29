"""What the runs of a grid share is counted, and found by the runs."""

from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.runtime.store import Store
from hgsp_core.sweeps.cells import Cell
from hgsp_core.sweeps.shared import Need, groups_of, needs, prepare
from tests.helpers.command import MODEL


def test_the_windows_of_each_text_are_counted_and_then_found(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"In line {i} stands the number {i * i}." for i in range(500)))
    recipe = parse_recipe(
        f"model: {{path: {MODEL}}}\ncalibrate: {{dataset: [pydoc, {text}], samples: 4, seq_len: 16}}\nscore: {{use: wanda}}\n"
        f"allocate: {{use: uniform}}\nreconstruct: {{use: none}}\noutput: {tmp_path / 'out'}\n",
        "r",
    )
    groups, store = groups_of([Cell("a", recipe)]), Store(tmp_path / "store")
    assert needs(groups, store)["calibrations"] == Need(2, 0)
    prepare(groups[0].recipes, LogMonitor(), store)
    found = needs(groups, store)
    assert found["calibrations"] == Need(2, 2)
    assert found["sweeps"] == Need(1, 1)
