"""Plans that bring out what an architecture may have wrong; made for a layout of any family."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from types import MappingProxyType

from hgsp_core import BlockLayout, Layout, Plan

Block = tuple[int, str]


def thinned(layout: Layout, gone: Container[Block] = ()) -> Plan:
    """About a third of the units of every block, others in each layer; the last layer stays whole.

    As many experts stay as a token goes to.

    The blocks in `gone` go whole.
    """
    last = len(layout.layers) - 1

    def kept(block: BlockLayout) -> list[int]:
        stay = [u for u in range(block.units) if (u + block.layer) % 3 or block.layer == last]
        return stay if len(stay) >= block.least else list(range(block.least))

    return _plan(layout, lambda block: [] if (block.layer, block.axis.name) in gone else kept(block))


def without(layout: Layout, gone: Container[Block]) -> Plan:
    """Only these blocks go, whole."""
    return _plan(layout, lambda block: [] if (block.layer, block.axis.name) in gone else range(block.units))


def same_sizes(layout: Layout, axes: Container[str]) -> Plan:
    """As many units of every block of these axes, two thirds (but one at the least) and others in each layer."""

    def kept(block: BlockLayout) -> list[int]:
        if block.axis.name not in axes:
            return list(range(block.units))
        return [(u + block.layer) % block.units for u in range(max(block.least, 2 * block.units // 3))]

    return _plan(layout, kept)


def fewer_heads(layout: Layout, everywhere: bool) -> Plan:
    """Every group gives up one query head, each its own; `everywhere`, or only in odd layers."""

    def heads(block: BlockLayout) -> list[list[int]]:
        gone = [(u + block.layer) % block.heads for u in range(block.units)]
        return [[h for h in range(block.heads) if h != own] for own in gone]

    chosen = [b for b in layout.blocks() if b.heads > 1 and (everywhere or b.layer % 2)]
    return _plan(layout, lambda block: range(block.units), {(b.layer, b.axis.name): heads(b) for b in chosen})


def _plan(
    layout: Layout,
    kept: Callable[[BlockLayout], Iterable[int]],
    heads: Mapping[tuple[int, str], Sequence[Sequence[int]]] = MappingProxyType({}),
) -> Plan:
    plan = Plan.of(layout, {(b.layer, b.axis.name): kept(b) for b in layout.blocks()}, 0, heads=heads)
    return Plan(plan.layers, plan.before, plan.parameters_after(layout))
