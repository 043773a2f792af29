"""The pruned checkpoint, written one layer in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.surgery import prune_tensors
from hgsp_core.checkpoint.config import pruned_config
from hgsp_core.checkpoint.on_disk import OnDisk
from hgsp_core.checkpoint.rehouse import housed_tensors
from hgsp_core.checkpoint.shards import Shards
from hgsp_core.checkpoint.stored import in_files
from hgsp_core.checkpoint.write import write_checkpoint
from hgsp_core.engine.memory import free_bytes
from hgsp_core.errors import NumericError
from hgsp_core.runtime.measure import placed
from hgsp_core.runtime.monitor import Progress
from hgsp_core.runtime.source import Source

#: bytes of a weight file
MIN_SHARD, MAX_SHARD = 2 * 10**7, 5 * 10**9


def cut(source: Source, plan: Plan, repaired: OnDisk, destination: Path, progress: Progress) -> None:
    """Write the source as the plan leaves it.

    Args:
        repaired: the tensors that a repair changed, at their old sizes.

    Raises:
        NumericError: a weight that holds NaN or infinity: no pass over the layers may have looked at it.
        CheckpointError: the destination cannot be written.
    """
    layout = source.layout

    def tensors() -> Iterator[tuple[str, Tensor]]:
        dtype, _ = placed(source.dtype, "cpu")
        shards = Shards(source.directory, layout.architecture)
        for name in layout.outside:
            yield name, _finite(name, repaired.get(name, shards.read(name, dtype)))
        for layer in layout.layers:
            for name in (name for block in layer.blocks.values() for name in block.tensors()):
                yield name, _finite(name, repaired.get(name, shards.read(name, dtype)))
            progress(layer.index + 1, len(layout.layers))

    config = pruned_config(layout, plan)
    pruned = housed_tensors(prune_tensors(tensors(), layout, plan), layout, config)
    stored = in_files(pruned, layout.architecture, config)
    shard = min(MAX_SHARD, max(free_bytes(torch.device("cpu")) // 8, MIN_SHARD))  # a shard is collected in memory
    size = plan.parameters_after(layout) * source.bytes_per_parameter
    write_checkpoint(stored, config, source.directory, destination, shard, size)


def _finite(name: str, tensor: Tensor) -> Tensor:
    if not tensor.isfinite().all():
        raise NumericError.weight(name)
    return tensor
