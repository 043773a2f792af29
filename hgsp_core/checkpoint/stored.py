"""Tensors that files hold in parts and models whole: the experts of a layer, each with tensors of its own on the hub.

Which they are, and what their parts are called, is the architecture's data (`Architecture.stored`). Everything else here
knows only the names and shapes in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgsp_core.checkpoint.read import Place, places
from hgsp_core.model.architecture import Architecture
from hgsp_core.model.errors import LayoutError
from hgsp_core.model.layout import Shape

if TYPE_CHECKING:
    from torch import Tensor

#: stands for the number of an expert in the name of a part
EXPERT = "{expert}"


@dataclass(frozen=True)
class Part:
    """A tensor in a file, and which part of the one in memory it is: all of it, or rows of it or of one expert."""

    name: str
    place: Place
    expert: int | None = None
    rows: slice | None = None

    def of(self, whole: Tensor) -> Tensor:
        """Its view of the tensor in memory."""
        own = whole if self.expert is None else whole[self.expert]
        return own if self.rows is None else own[self.rows]


@dataclass(frozen=True)
class Stored:
    """A tensor in memory: its shape, and the parts that files hold it in."""

    shape: Shape
    parts: tuple[Part, ...]


def in_memory(found: Mapping[str, Place], architecture: Architecture | None) -> dict[str, Stored]:
    """Name in memory -> where it is stored. Without an architecture, names in memory are those in files.

    Raises:
        LayoutError: an expert that lacks a tensor, or whose tensor has another shape than those of the others.
    """
    left, whole = dict(found), dict[str, Stored]()
    if architecture and architecture.stored:
        start = f"{architecture.layers}."
        for index in dict.fromkeys(n.removeprefix(start).partition(".")[0] for n in found if n.startswith(start)):
            for local, names in architecture.stored.items():
                name, parts = f"{start}{index}.{local}", [f"{start}{index}.{part}" for part in names]
                if name not in left and (experts := _experts(parts, left)):
                    whole[name] = _joined(parts, experts, left, architecture)
    return whole | {name: Stored(place.shape, (Part(name, place),)) for name, place in left.items()}


def in_files(
    tensors: Iterable[tuple[str, Tensor]], architecture: Architecture, config: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """Tensors by their names in memory, as files of a checkpoint with this config hold them.

    Only programs that know the family join parts, so a checkpoint of model type `hgsp` holds the tensors of memory.
    """
    start = f"{architecture.layers}."
    for name, tensor in tensors:
        prefix, _, local = name.removeprefix(start).partition(".")
        names = architecture.stored.get(local, ()) if name.startswith(start) else ()
        if not names or config["model_type"] != architecture.model_type:
            yield name, tensor
            continue
        for expert, own in enumerate(tensor) if EXPERT in names[0] else [(0, tensor)]:
            for part, rows in zip(names, own.chunk(len(names)), strict=True):
                yield f"{start}{prefix}.{part.replace(EXPERT, str(expert))}", rows


def stored_shapes(directory: Path | str, architecture: Architecture | None) -> dict[str, Shape]:
    """Name in memory -> shape of every tensor of a checkpoint. Raises as `places` and `in_memory`."""
    return {name: stored.shape for name, stored in in_memory(places(directory), architecture).items()}


def _experts(parts: Sequence[str], left: Mapping[str, Place]) -> list[int | None]:
    """The numbers of the experts that are there; [None] for a tensor without experts, [] where nothing is there."""
    if EXPERT not in parts[0]:
        return [None] if any(part in left for part in parts) else []
    there = takewhile(lambda e: any(part.replace(EXPERT, str(e)) in left for part in parts), count())
    return list(there)


def _joined(
    parts: Sequence[str], experts: Sequence[int | None], left: dict[str, Place], architecture: Architecture
) -> Stored:
    """The parts of all experts as one tensor; they are taken out of `left`."""
    found: list[Part] = []
    first = None
    for expert in experts:
        row, shapes = 0, []
        for part in parts:
            name = part.replace(EXPERT, str(expert))
            if name not in left:
                raise LayoutError.missing(name, architecture.model_type)
            place = left.pop(name)
            rows = slice(row, row := row + place.shape[0]) if len(parts) > 1 else None
            found.append(Part(name, place, expert, rows))
            shapes.append(place.shape)
        first = first or shapes
        if shapes != first or len({shape[1:] for shape in shapes}) > 1:
            raise LayoutError.other_expert(found[-1].name, shapes[-1], first[-1])
    assert first is not None  # there is at least one expert
    one = (sum(shape[0] for shape in first), *first[0][1:])
    return Stored(one if experts[0] is None else (len(experts), *one), tuple(found))
