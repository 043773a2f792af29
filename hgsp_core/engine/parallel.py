"""Several processes on one calibration set: each takes a share of the samples, and sums are added over all processes.

Start them with `torchrun --nproc-per-node=N -m hgsp_core run …` or `accelerate launch`; gloo on CPU, nccl on GPU. A
single process runs the same code.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import lcm

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hgsp_core.engine.errors import EngineError
from hgsp_core.engine.launched import launched


@contextmanager
def joined() -> Iterator[None]:
    """Within the context this process belongs to the group that its launcher announced; without one it is alone."""
    if launched() == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def processes_here() -> int:
    """Number of processes that share this machine's memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def share(tokens: np.ndarray, gradient_batches: Iterable[int] = ()) -> np.ndarray:
    """This process's samples of tokens [samples, seq_len]: consecutive ones, in whole gradient batches.

    Raises:
        EngineError: fewer samples (or gradient batches) than processes.
    """
    if processes() == 1:
        return tokens
    size = lcm(*gradient_batches)
    groups = -(-len(tokens) // size)
    if groups < processes():
        raise EngineError.too_many_processes(processes(), groups)
    first, last = (groups * r // processes() for r in (rank(), rank() + 1))
    return tokens[first * size : last * size]


def of_all(own: Tensor) -> Tensor:
    """The tensors of all processes, each [n of the process, ...], concatenated in the order of their samples."""
    if processes() == 1:
        return own
    counts = torch.zeros(processes(), dtype=torch.int64, device=own.device)
    counts[rank()] = len(own)
    add_up([counts])
    start, total = int(counts[: rank()].sum()), int(counts.sum())
    found = own.new_zeros(total, *own.shape[1:])
    found[start : start + len(own)] = own
    add_up([found])
    return found


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor, in place, by its sum over all processes."""
    if processes() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
