"""`torch_pruning`: Torch-Pruning's BasePruner (its MetaPruner, Fang et al. 2023, arXiv 2301.12900) decides which units go.

It prunes a stand-in of the model: random weights, the same layers, heads and channels, but two numbers to a head and
two tokens to its vocabulary, as nothing that it decides depends on the rest. Its importance is the recipe's score of each
unit, so the same scores are compared under its allocation and ours. What it removed is read back from the groups that it
pruned. Its `head_pruning_ratio` is the budget's share of what it may prune, down to whole heads; its `pruning_ratio`, for
the channels, is searched for: the one with which the real model loses what is asked, never more.

Its `iterative_steps` is not offered: the scores stay the same from step to step, so it could only remove what one step does,
and for heads it removes more (it takes each step's share of the heads that are left).

Torch-Pruning removes heads only where each has its own KV head. On grouped-query attention it takes query heads out of
each group, and with two query heads to a group it never ends: there only the MLPs are pruned, and the plan says so. The
same holds where norms of single heads (Qwen3, Gemma 3) stand between q, k and the attention. Through linears that hold
several (Phi-3's) it traces well.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from math import floor
from typing import Any, Literal

import numpy as np
from pydantic import Field

from hgsp_baselines.errors import TorchPruningError
from hgsp_core import AllocateJob, Allocator, BlockLayout, HgspError, Layout, Plan
from hgsp_core.allocate.budget import RatioParams
from hgsp_core.allocate.limits import mixes_tokens

#: tries at its ratio: along the straight line between the nearest ones below and above, every third in their middle
ROUNDS = 15
HEAD_DIM, VOCABULARY = 2, 2


class TorchPruningParams(RatioParams):
    global_pruning: bool = Field(
        False,
        description="true = channels compete across all layers, and so do heads; false = equal rates in every layer",
    )
    attention: Literal["auto", "prune", "keep"] = Field(
        "auto",
        description="prune = also removes heads, an error with grouped-query attention; keep = prunes only the MLPs; "
        "auto = prune if possible, otherwise keep with a note",
    )


class TorchPruning(Allocator[TorchPruningParams]):
    """Lets Torch-Pruning's BasePruner rank the units by the scores of the recipe.

    Source: DepGraph (Fang et al. 2023, arXiv 2301.12900).
    Cost: about 3 traces of a narrow stand-in of the model, 13 s each for an 8B model.
    When: comparing its allocation with this project's on the same scores.
    Notes: Its pruning ratio is searched for, so that the real model meets the budget. It cannot prune grouped-query
        attention, or heads behind norms of their own: a note says so, or, with `attention: prune`, an error.
    """

    needs_priors = False

    def __call__(self, job: AllocateJob) -> Plan:
        p, layout = self.params, job.layout
        grouped = next((b for b in layout.blocks() if mixes_tokens(b) and is_grouped(b)), None)
        if grouped and p.attention == "prune":
            raise TorchPruningError.grouped_attention(grouped.layer, *_heads(grouped))
        with_attention = p.attention != "keep" and grouped is None
        blocks = [b for b in layout.blocks() if (with_attention or not mixes_tokens(b)) and not b.routed]
        scores = {_key(b): job.scores.score[job.scores.units_of(*_key(b))] for b in blocks}

        budget, best, most = p.budget(layout), Plan.keep_all(layout), 0
        largest = sum((b.units - 1) * b.unit_cost for b in blocks)  # it empties no layer
        if budget > largest:
            raise TorchPruningError.short(p.ratio, p.of, largest / p.denominator(layout), with_attention)
        mlp = [b for b in blocks if not mixes_tokens(b)]
        prunable, channels = (sum(b.units * b.unit_cost for b in part) for part in (blocks, mlp))
        rate = budget / prunable
        step = sum(b.unit_cost for b in mlp)  # of its ratio: it takes a channel of each MLP at the most
        low, high = (0.0, int(rate * (prunable - channels))), (1.0, int(rate * (prunable - channels)) + channels)
        for turn in range(ROUNDS):  # low, high: (ratio, parameters that it removes), the nearest on both sides
            share = 1 / 2 if turn % 3 == 2 else min(max(budget - low[1], 0) / max(high[1] - low[1], 1), 1.0)
            ratio = low[0] + share * (high[0] - low[0])
            kept = decide(layout, blocks, scores, ratio, rate, p)
            plan = Plan.of(layout, {_key(b): kept.get(_key(b), range(b.units)) for b in layout.blocks()}, budget)
            removed = plan.removed(layout)
            if removed > budget:
                high = ratio, removed
                continue
            low = ratio, removed
            if removed > most:
                best, most = plan, removed
            if budget - most <= step:
                break
        else:
            raise TorchPruningError.short(p.ratio, p.of, most / p.denominator(layout), with_attention)
        notes = [f"Torch-Pruning removes {most:,} of {budget:,} parameters."]
        heads = [b for b in blocks if mixes_tokens(b)]
        if heads and whole_heads(heads, rate, p.global_pruning) and not any(best.block(b).loses for b in heads):
            if p.attention == "prune":
                raise TorchPruningError.no_heads(layout.architecture.model_type)
            notes.append("Attention is not pruned: Torch-Pruning finds no heads to remove (norms of single heads).")
        if grouped and p.attention == "auto":
            notes.append("Attention is not pruned: Torch-Pruning cannot remove groups of grouped-query attention.")
        return Plan.of(layout, {_key(b): best.block(b).kept for b in layout.blocks()}, budget, notes)


def is_grouped(block: BlockLayout) -> bool:
    """Query heads share KV heads: the linears that write q, k and v differ in size."""
    return len({s.shape[0] for s in block.slices if s.dim == 0}) > 1


def _heads(block: BlockLayout) -> tuple[int, int]:
    """(query heads, KV heads), the KV heads being the units."""
    rows = [s.shape[0] for s in block.slices if s.dim == 0]
    return max(rows) * block.units // min(rows), block.units


def _key(block: BlockLayout) -> tuple[int, str]:
    return block.layer, block.axis.name


def decide(
    layout: Layout,
    blocks: list[BlockLayout],
    scores: Mapping[tuple[int, str], np.ndarray],
    channel_ratio: float,
    head_ratio: float,
    params: TorchPruningParams,
) -> dict[tuple[int, str], np.ndarray]:
    """(layer, axis) -> indices of the units that Torch-Pruning leaves of each of `blocks`.

    Args:
        scores: (layer, axis) -> [units].
        channel_ratio, head_ratio: its own ratios, of units; heads are rounded down.

    Raises:
        TorchPruningError: it is missing, cannot trace the model, or cuts through units.
    """
    try:
        import torch_pruning
    except ImportError:
        raise TorchPruningError.not_installed() from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on norms, which it leaves as they are here
        try:
            model = stand_in(layout)
            state = _State(model, blocks, scores)
            pruner = torch_pruning.pruner.BasePruner(
                model,
                {"input_ids": model.dummy_inputs["input_ids"][:1, :2] * 0, "use_cache": False},
                importance=state.importance,
                global_pruning=params.global_pruning,
                pruning_ratio=channel_ratio,
                ignored_layers=state.ignored(),
                num_heads=state.heads(),
                prune_num_heads=True,
                prune_head_dims=False,
                head_pruning_ratio=whole_heads(blocks, head_ratio, params.global_pruning),
                output_transform=lambda output: output.logits,
                root_module_types=[type(model.get_submodule(blocks[0].writer.module))],
            )
            for group in pruner.step(interactive=True):
                state.note(group)
                group.prune()
        except HgspError:
            raise
        except Exception as error:  # its tracer raises whatever the model's code made it raise
            raise TorchPruningError.not_traced(layout.architecture.model_type, error) from error
    return state.kept


def stand_in(layout: Layout) -> Any:
    """A model of the layout's family with its layers, heads and channels, as narrow as it can be."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    heads = max(_heads(block)[0] for block in layout.blocks() if mixes_tokens(block))
    narrow = {
        "hidden_size": heads * HEAD_DIM,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCABULARY,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
    }
    rotary = ("rope_parameters", "rope_scaling")  # may have a number for each half of a head of the real size
    given = {key: value for key, value in layout.config.items() if key not in rotary}
    config = CONFIG_MAPPING[layout.architecture.model_type].from_dict({**given, **narrow})
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager", trust_remote_code=False).eval()


def whole_heads(blocks: list[BlockLayout], ratio: float, together: bool) -> float:
    """The ratio at which Torch-Pruning, which rounds up, removes floor(ratio · heads), of a layer or of all `together`."""
    counts = [block.units for block in blocks if mixes_tokens(block)]
    heads = sum(counts) if together else min(counts, default=0)
    gone = floor(ratio * heads)
    return (gone - 0.5) / heads if gone else 0.0


class _State:
    """The stand-in, and the units that stay in it."""

    def __init__(self, model: Any, blocks: list[BlockLayout], scores: Mapping[tuple[int, str], np.ndarray]):
        self.model, self.blocks, self.scores = model, blocks, scores
        self.writers = {model.get_submodule(block.writer.module): block for block in blocks}
        self.kept = {_key(block): np.arange(block.units) for block in blocks}

    def ignored(self) -> list[Any]:
        """Linears whose outputs must stay: all but the ones whose rows are units of the blocks to prune."""
        import torch

        free = {id(self.model.get_submodule(s.module)) for block in self.blocks for s in block.slices if s.dim == 0}
        kinds = (torch.nn.Linear, torch.nn.Embedding)
        return [m for m in self.model.modules() if isinstance(m, kinds) and id(m) not in free]

    def heads(self) -> dict[Any, int]:
        """Linear -> its heads, for the linears that write q, k and v."""
        attention = [block for block in self.blocks if mixes_tokens(block)]
        return {self.model.get_submodule(s.module): b.units for b in attention for s in b.slices if s.dim == 0}

    def importance(self, group: Any) -> Any:
        """Score of the unit that each column of the group's writer belongs to, [columns]; None = not to be pruned."""
        import torch

        found = self._writer(group)
        if found is None:
            return None
        block, columns = found
        scores = self.scores[_key(block)]
        return torch.from_numpy(np.repeat(scores, len(columns) // len(scores)))

    def note(self, group: Any) -> None:
        """Take down what is about to be pruned."""
        found = self._writer(group)
        assert found is not None  # only groups of a writer get an importance
        block, columns = found
        width = self.model.get_submodule(block.writer.module).in_features // block.units
        units, counts = np.unique(np.asarray(columns) // width, return_counts=True)
        if (counts != width).any():
            raise TorchPruningError.part_of_a_unit(*_key(block))
        self.kept[_key(block)] = np.setdiff1d(self.kept[_key(block)], units)

    def _writer(self, group: Any) -> tuple[BlockLayout, list[int]] | None:
        """The block whose writer's columns the group prunes, and those columns."""
        for dependency, columns in group:
            if dependency.handler.__name__ == "prune_in_channels" and dependency.target.module in self.writers:
                return self.writers[dependency.target.module], columns
        return None
