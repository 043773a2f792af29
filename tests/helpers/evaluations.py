"""The trained demo model and a pruned copy of it whose layers differ in size, to measure."""

from pathlib import Path

from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.surgery import prune_tensors
from hgsp_core.checkpoint.config import pruned_config
from hgsp_core.checkpoint.shards import read_tensors
from hgsp_core.checkpoint.write import write_checkpoint
from hgsp_core.runtime.recipe import ModelPart
from hgsp_core.runtime.source import open_model
from tests.helpers.command import MODEL

#: (layer, axis) -> units that go; enough for every answer to change, and little enough for most to stay right
GONE = {(0, "mlp"): 40, (2, "attention"): 1, (3, "attention"): 4, (4, "mlp"): 150, (5, "mlp"): 416}


def prune_demo_model(destination: Path) -> Path:
    """Cut models/pydoc-llama by `GONE`: two attentions and an MLP smaller, one attention and one MLP gone whole."""
    layout = open_model(ModelPart(path=str(MODEL))).layout
    kept = {(b.layer, b.axis.name): range(GONE.get((b.layer, b.axis.name), 0), b.units) for b in layout.blocks()}
    plan = Plan.of(layout, kept, 0)
    write_checkpoint(prune_tensors(read_tensors(MODEL), layout, plan), pruned_config(layout, plan), MODEL, destination)
    return destination
