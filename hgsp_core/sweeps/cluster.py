"""Tasks on a Ray cluster (extra `hgsp-core[ray]`). Output and store are on storage that all nodes share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from hgsp_core.runtime.fresh import elsewhere
from hgsp_core.runtime.store import Store
from hgsp_core.sweeps.errors import GridError
from hgsp_core.sweeps.work import Outcome, Task, carry_out, directory_of


@dataclass
class Cluster:
    """As many tasks at a time as the cluster has CPUs, or GPUs where it has any. Each one in a fresh worker process."""

    store: Store
    slots: int
    remote: Any
    _running: dict[Any, Task] = field(default_factory=dict)

    def start(self, task: Task) -> None:
        self._running[self.remote.remote(task, self.store, os.getcwd())] = task

    def wait(self) -> tuple[Task, Outcome]:
        """The next task that ends, and how."""
        import ray

        (reference,), _ = ray.wait(list(self._running), num_returns=1)
        task = self._running.pop(reference)
        try:
            outcome = ray.get(reference)
        except ray.exceptions.RayError as error:  # the worker or its node died
            outcome = Outcome(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}", f"{error}\n")
        if not outcome.message and not task.shared and not directory_of(task).is_dir():
            lost = str(GridError.not_shared(directory_of(task)))
            outcome = Outcome(lost, f"{lost}\n")
        return task, outcome


@contextmanager
def cluster(store: Store, address: str) -> Iterator[Cluster]:
    """Connect, and disconnect at the end.

    Args:
        address: as ray.init takes it; "local" starts one on this machine, "auto" finds one that runs here.

    Raises:
        GridError: ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise GridError.no_ray() from None
    ours = not ray.is_initialized()
    try:
        if ours:
            with elsewhere():  # ray puts the current directory on its workers' path
                ray.init(
                    address=address,
                    include_dashboard=False if address == "local" else None,
                    log_to_driver=False,
                    logging_level="error",
                )
    except Exception as error:  # noqa: BLE001 - ray has no common type for what can go wrong here
        raise GridError.no_cluster(address, error) from None
    try:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        # max_calls=1: a worker process ends with its task, and its memory with it
        remote = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_calls=1, max_retries=0)(_in_worker)
        yield Cluster(store, max(1, gpus or int(resources.get("CPU", 1))), remote)
    finally:
        if ours:
            ray.shutdown()


def _in_worker(task: Task, store: Store, directory: str) -> Outcome:
    """`directory`: what relative paths of the recipe begin at, on a node that has it."""
    with suppress(FileNotFoundError):
        os.chdir(directory)
    return carry_out(task, store, lambda message: None)
