"""The processes of a run: one, or those that a launcher started; and the memory of this one."""

from __future__ import annotations

import platform
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hgsp_core.engine.launched import launched


@contextmanager
def group() -> Iterator[bool]:
    """Joins the processes that a launcher started, if one did; yields whether this is the first of them."""
    if launched() == 1:
        yield True
        return
    from hgsp_core.engine.parallel import joined, rank

    with joined():
        yield rank() == 0


def wait_for_all() -> None:
    """Returns when every process of the group has come here; at once where there is one."""
    if launched() > 1:
        from torch import distributed

        distributed.barrier()


def peak_memory() -> int:
    """Largest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage, on Linux, counts what started this process, too, as large as it was then
        found = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if found:
            return int(found[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
