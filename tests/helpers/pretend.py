"""A GPU that is not there: tensors with real numbers on the host that say they are on `cuda:0`.

    with gpu() as device:
        model.to("cuda:0")
        ...
    device.waits  # (operation, file:line) -> how often the host waited for the device

What CUDA refuses is refused: an operation over tensors of two devices, numpy on data of the device. What makes the host wait
is counted: copies in both directions, and whatever needs the numbers at once (shapes, branches, errors of a solver).
torch's FakeTensorMode has no numbers, so it could not go through branches, and a CPU build of torch has no backward for it.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

CUDA, CPU, LAZY = torch.device("cuda", 0), torch.device("cpu"), torch.device("lazy", 0)
COPIES = {"_to_copy", "copy_"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
#: the host cannot go on without their numbers
BLOCKING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_linalg_check_errors", "_unique2"}


class OnDevice(Tensor):
    """`held`: its numbers. C++ takes it for one on `lazy:0`: besides cpu and meta, the device that builds for CPUs can go back on."""

    held: Tensor
    device = CUDA
    is_cuda = True

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        face: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=LAZY,
        )
        face.held = held
        return face

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> NoReturn:
        raise AssertionError(f"{function}: a tensor of the pretended device is used after it has gone")

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    @property
    def nbytes(self) -> int:
        return self.held.nbytes

    def numpy(self, **keywords: Any) -> NoReturn:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def cpu(self) -> Tensor:
        return self.to(CPU)

    def to(self, *arguments: Any, **keywords: Any) -> Tensor:
        """torch's own would take a move to where it is for a copy."""
        if CUDA in arguments:
            arguments = tuple(LAZY if a == CUDA else a for a in arguments)
        if keywords.get("device") == CUDA:
            keywords["device"] = LAZY
        return super().to(*arguments, **keywords)

    def __repr__(self, **keywords: Any) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"


class Device(TorchDispatchMode):
    """Runs everything on the host, and keeps the books of what is where."""

    def __init__(self, waits: Counter[tuple[str, str]] | None = None):
        super().__init__()
        self.waits = Counter[tuple[str, str]]() if waits is None else waits

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = dict(keywords or {})
        name = function.overloadpacket.__name__
        tensors = [t for t in tree_iter((arguments, keywords)) if isinstance(t, Tensor)]
        ours = [t for t in tensors if isinstance(t, OnDevice)]
        there = isinstance(arguments[0], OnDevice) if name == "copy_" else bool(ours)
        if keywords.get("device") is not None:
            there = torch.device(keywords["device"]).type in ("cuda", "lazy")
            if there:
                keywords["device"] = CPU
        self._refuse(name, function, arguments, keywords, tensors, ours, there)
        self._count(name, arguments, keywords, tensors, ours, there)
        keywords.pop("pin_memory", None)
        output = function(*tree_map(_held, arguments), **tree_map(_held, keywords))
        known = {id(t.held): t for t in ours}  # what an operation changes in place is returned as it is

        def face(value: Any) -> Any:
            return known.get(id(value), OnDevice(value)) if isinstance(value, Tensor) else value

        return tree_map(face, output) if there else output

    def _refuse(
        self,
        name: str,
        function: Any,
        arguments: Sequence[Any],
        keywords: dict[str, Any],
        tensors: Sequence[Tensor],
        ours: Sequence[Tensor],
        there: bool,
    ) -> None:
        """Raise for what CUDA would raise for."""
        others = [t for t in tensors if not isinstance(t, OnDevice)]
        if name in INDEXING and isinstance(arguments[0], OnDevice):  # indices may be on the host
            others = [t for t in others if not any(t is index for index in arguments[1])]
        if torch.Tag.pointwise in function.tags or name in INDEXING:  # so may single numbers
            others = [t for t in others if t.dim() or (name.endswith("_") and t is arguments[0])]
        if ours and others and name not in COPIES:
            found = [f"{tuple(t.shape)} on {t.device}" for t in tensors]
            raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got {', '.join(found)}")
        generator = keywords.get("generator")
        if generator is not None and there:
            raise RuntimeError(f"{name}: Expected a 'cuda' device type for generator but found '{generator.device}'")
        if name == "linalg_lstsq" and ours and keywords.get("driver") not in (None, "gels"):
            raise RuntimeError("torch.linalg.lstsq: parameter `driver` should be one of (gels) on CUDA")

    def _count(
        self,
        name: str,
        arguments: Sequence[Any],
        keywords: dict[str, Any],
        tensors: Sequence[Tensor],
        ours: Sequence[Tensor],
        there: bool,
    ) -> None:
        waits = bool(ours) and name in BLOCKING
        if name == "_to_copy" and not keywords.get("non_blocking"):
            waits = bool(ours) != there
        if name == "copy_":
            waits = 0 < len(ours) < 2
        if name in INDEXING and ours:
            indices = [index for index in arguments[1] if index is not None]
            waits = any(not isinstance(i, OnDevice) or i.dtype == torch.bool for i in indices)
        if waits:
            self.waits[name, _caller()] += 1


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _caller() -> str:
    """The innermost line of the product or of transformers that is running."""
    for frame, line in traceback.walk_stack(None):
        for package in ("hgsp_core", "transformers"):
            _, found, file = frame.f_code.co_filename.rpartition(f"/{package}/")
            if found:
                return f"{package}/{file}:{line}"
    return "elsewhere"


@contextmanager
def gpu(free: int = 2**34) -> Iterator[Device]:
    """Within the context torch has a device `cuda:0` with so many bytes free."""
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=) makes it on the host and copies it
    there = {
        "_lazy_init": lambda: None,
        "mem_get_info": lambda device=None: (free, free),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
    }
    submit = ThreadPoolExecutor.submit

    def submitted(pool: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        def there_too() -> Any:
            with Device(device.waits):  # a mode belongs to a thread
                return work(*arguments)

        return submit(pool, there_too)

    try:
        with (
            patch.multiple(torch.cuda, **there),
            patch.object(ThreadPoolExecutor, "submit", submitted),
            Device() as device,
        ):
            yield device
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
