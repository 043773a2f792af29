"""Pruned checkpoints of tiny models on disk, each with the reference it must equal: the original with the units masked."""

from types import MappingProxyType
from typing import NamedTuple

import torch

from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.surgery import mask_tensors, prune_tensors
from hgsp_core.checkpoint.config import pruned_config
from hgsp_core.checkpoint.rehouse import housed_tensors
from hgsp_core.checkpoint.write import write_checkpoint
from tests.helpers.architectures import layout_of, tiny_model

#: (layer, axis) -> units that stay; blocks that are not named stay whole. For 5 layers and 4 groups or more.
PLANS = {
    "sizes differ": {(0, "attention"): [1, 2], (1, "mlp"): range(7, 30), (3, "attention"): [3], (4, "mlp"): [0, 47]},
    "first attention gone": {(0, "attention"): [], (2, "attention"): [0, 3]},
    "middle attention gone": {(2, "attention"): [], (2, "mlp"): range(10)},
    "last attention gone": {(4, "attention"): []},
    "mlps gone": {(0, "mlp"): [], (4, "mlp"): []},
    "layer and blocks gone": {(1, "attention"): [], (1, "mlp"): [], (2, "mlp"): [], (3, "attention"): []},
    "everything": {
        (0, "attention"): [],
        (0, "mlp"): range(5, 25),
        (1, "attention"): [],
        (1, "mlp"): [],
        (2, "attention"): [0, 2],
        (2, "mlp"): [],
        (3, "attention"): [1],
        (3, "mlp"): range(30),
        (4, "attention"): [],
    },
}
SIZES = {"num_hidden_layers": 5, "num_key_value_heads": 4}


class Pruned(NamedTuple):
    """A checkpoint directory, the masked original that it must equal, and the plan that made it."""

    directory: str
    reference: torch.nn.Module
    config: dict


def prune(
    tmp_path, kind, kept, max_shard_size=10**9, dtype=torch.float32, heads=MappingProxyType({}), **config
) -> Pruned:
    """Cut a tiny model of this kind by a plan and write it below `tmp_path`. `heads`: as in `Plan.of`."""
    model = tiny_model(kind, dtype=dtype, **{**SIZES, **config})
    layout = layout_of(model)
    everything = {(b.layer, b.axis.name): range(b.units) for b in layout.blocks()}
    plan = Plan.of(layout, {**everything, **kept}, 0, heads=heads)
    config = pruned_config(layout, plan)
    pruned = prune_tensors(model.state_dict().items(), layout, plan)
    directory = tmp_path / "pruned"
    write_checkpoint(housed_tensors(pruned, layout, config), config, tmp_path, directory, max_shard_size)
    masked = dict(mask_tensors(model.state_dict().items(), layout, plan))
    model.load_state_dict(masked)
    return Pruned(directory, model, config)


def tokens(batch=2, length=12, seed=1) -> torch.Tensor:
    """[batch, length] without the special token 0 that tests pad with."""
    return torch.randint(1, 97, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, ids=None, **inputs) -> torch.Tensor:
    return model(tokens() if ids is None else ids, use_cache=False, **inputs).logits
