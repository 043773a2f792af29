"""Where activations are kept for the backward half, chosen by free memory.

graphs   all activations; nothing is run twice            (resident weights only)
device   the streams between layers, where the model is   (one more forward)
cpu      the streams, in the memory of the host
disk     the streams, in a temporary file
"""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor

from hgsp_core.engine.batches import Batches
from hgsp_core.engine.errors import EngineError
from hgsp_core.engine.layer import differentiable
from hgsp_core.engine.parallel import processes_here
from hgsp_core.engine.trail import Boundaries, DiskBoundaries, Graphs, Trail

if TYPE_CHECKING:
    from hgsp_core.engine.weights import Weights

#: share of free memory for kept activations; the rest is for one layer's gradients and for other programs
SHARE = 0.7
_CPU = torch.device("cpu")
_SAYS = {
    "graphs": "keeps all activations, nothing is run twice",
    "device": "keeps the streams between layers on the device, layers are run again",
    "cpu": "keeps the streams between layers in memory of the host, layers are run again",
    "disk": "keeps the streams between layers on disk, layers are run again",
}


def choose_trail(
    weights: Weights, batches: Batches, streams: Sequence[Tensor], memory: str, say: Callable[[str], None]
) -> Trail:
    """The trail that `memory` names; for "auto" the fastest one that fits. Reports the choice and its size.

    Raises:
        EngineError: it does not fit; names the needed and the free memory, and the setting that helps.
    """
    if memory == "graphs" and not weights.stays:
        raise EngineError.graphs_streamed()
    places = {
        "graphs": lambda: (_graph_bytes(weights, batches, streams), free_bytes(weights.device)),
        "device": lambda: (_stream_bytes(weights, streams), free_bytes(weights.device)),
        "cpu": lambda: (_stream_bytes(weights, streams), free_bytes(_CPU)),
        "disk": lambda: (_stream_bytes(weights, streams), shutil.disk_usage(tempfile.gettempdir()).free),
    }
    if memory == "auto":
        names = [name for name in places if not (name == "graphs" and not weights.stays)]
    else:
        names = [memory]
    for name in names:
        needed, free = places[name]()
        if needed <= SHARE * free:
            say(f"The sweep {_SAYS[name]}: {_gib(needed)} of {_gib(free)} free.")
            return _build(name, weights.device)
    raise EngineError.no_room(name, _gib(needed), _gib(free), SHARE)


def free_bytes(device: torch.device) -> int:
    """Bytes that this process can still allocate: on its GPU, or its share of the host within its limits and its cgroup's."""
    if device.type == "cuda":
        unused, _ = torch.cuda.mem_get_info(device)
        return unused + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = [psutil.virtual_memory().available // processes_here()]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free.append(limit - psutil.Process().memory_info().vms)
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").is_file() and (most := (group / "memory.max").read_text().strip()) != "max":
        used = int((group / "memory.current").read_text())
        free.append((int(most) - used) // processes_here())
    return max(0, min(free))


def _build(name: str, device: torch.device) -> Trail:
    if name == "graphs":
        return Graphs()
    if name == "disk":
        return DiskBoundaries()
    return Boundaries(device if name == "device" else _CPU)


def _stream_bytes(weights: Weights, streams: Sequence[Tensor]) -> int:
    return len(weights.layout.layers) * sum(stream.nbytes for stream in streams)


def _graph_bytes(weights: Weights, batches: Batches, streams: Sequence[Tensor]) -> int:
    """Bytes that autograd saves for all layers and batches, measured on the first layer and batch."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch, stream = next(iter(batches)), streams[0].detach().requires_grad_()
    for index, module in weights.layers([0]):
        kept = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with differentiable(weights.layout.layers[index], module), torch.enable_grad(), kept:
            output = batch.calls[index](module, stream)
        for parameter in module.parameters():
            saved.pop(parameter.untyped_storage().data_ptr(), None)
    del output  # alive until here, so that no storage was counted under the address of a freed one
    tokens = sum(batch.ids.numel() for batch in batches)
    return sum(saved.values()) * len(weights.layout.layers) * tokens // batch.ids.numel()


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
