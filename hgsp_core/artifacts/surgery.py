"""The only file that cuts weights.

Works on named tensors one at a time, so the same lines serve a loaded model and a checkpoint that streams through
shard by shard. Nothing here knows an architecture: `layout` tells which tensor belongs to which units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from hgsp_core.artifacts import BlockPlan, Plan
from hgsp_core.model.layout import BlockLayout, Layout, SliceLayout

Named = tuple[str, torch.Tensor]


class _Home(NamedTuple):
    """Where a tensor lives: its block, and its slices unless the tensor is one of the block's fixed ones."""

    block: BlockLayout
    slices: list[SliceLayout]

    def kept(self, plan: BlockPlan) -> torch.Tensor:
        """Kept lines of the tensor, ascending."""
        return torch.cat([s.start + lines(plan, s) for s in self.slices])


def _homes(layout: Layout) -> dict[str, _Home]:
    homes: dict[str, _Home] = {}
    for block in layout.blocks():
        for name, _ in block.fixed:
            homes[name] = _Home(block, [])
        for s in block.slices:
            homes.setdefault(s.weight, _Home(block, [])).slices.append(s)
            if s.has_bias:
                bias = homes.setdefault(s.bias, _Home(block, []))
                if s.dim == 0:  # it follows the rows; units that are columns do not change it
                    bias.slices.append(s)
    return homes


def positions(kept: Sequence[int], width: int) -> torch.Tensor:
    """Rows (or columns) of the kept units, [len(kept) * width]."""
    return (torch.tensor(kept, dtype=torch.long)[:, None] * width + torch.arange(width)).flatten()


def lines(plan: BlockPlan, s: SliceLayout) -> torch.Tensor:
    """Kept rows (or columns) of one linear, ascending: those of the kept units, or of their kept query heads."""
    if not plan.heads or s.heads == 1:
        return positions(plan.kept, s.width)
    heads = [unit * s.heads + head for unit, own in zip(plan.kept, plan.heads, strict=True) for head in own]
    return positions(heads, s.width // s.heads)


def prune_tensors(tensors: Iterable[Named], layout: Layout, plan: Plan) -> Iterator[Named]:
    """Cut a model: yield the kept tensors, at their new size and with their new layer number.

    Tensors of removed blocks and tensors that the layout does not list (tied heads, stored buffers) are left out.
    Kept values are copied bit for bit; a plan that keeps everything yields every tensor unchanged.
    """
    homes = _homes(layout)
    new_index = {old: new for new, old in enumerate(plan.kept_layers())}
    for name, tensor in tensors:
        if name in layout.outside:
            yield name, tensor
        elif name in homes:
            home = homes[name]
            block, own = home.block, plan.block(home.block)
            if not own.kept:
                continue
            if home.slices and own.loses:
                tensor = tensor.index_select(home.slices[0].dim, home.kept(own).to(tensor.device))
            layers = layout.architecture.layers
            local = name.removeprefix(f"{layers}.{block.layer}")
            yield f"{layers}.{new_index[block.layer]}{local}", tensor


def mask_tensors(tensors: Iterable[Named], layout: Layout, plan: Plan) -> Iterator[Named]:
    """The same model at its old size with the removed units set to zero: what a pruned model must equal.

    No weight of a router keeps tokens from an expert, so experts are cut here, too, unless all of a layer are removed.

    Exact because every axis is cut on both sides: a zero row of v, gate or up meets a zero column of o or down, so the unit
    adds nothing to the residual stream. A removed block also loses its output bias. A norm over all units takes the mean
    square of those that are there, so among zeros it gives √(all / kept) times as much, which its weight takes back.
    """
    homes = _homes(layout)
    for name, tensor in tensors:
        if name in homes:
            home = homes[name]
            own = plan.block(home.block)
            if home.block.routed:
                if not own.kept:
                    tensor = torch.zeros_like(tensor)
                elif home.slices and own.loses:
                    tensor = tensor.index_select(0, home.kept(own).to(tensor.device))
            elif home.slices and own.loses:
                s, kept = home.slices[0], home.kept(own).to(tensor.device)
                mask = torch.zeros(tensor.shape[s.dim], dtype=tensor.dtype, device=tensor.device)
                mask[kept] = (len(kept) / len(mask)) ** 0.5 if s.is_norm and name == s.weight else 1
                tensor = tensor * mask.view([-1 if d == s.dim else 1 for d in range(tensor.dim())])
            elif not home.slices and not own.kept and name.endswith(".bias"):
                tensor = torch.zeros_like(tensor)
        yield name, tensor
