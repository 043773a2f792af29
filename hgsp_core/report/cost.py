"""What a model costs, from its shapes alone: the same numbers for the model as it is (`Plan.keep_all`) and for a plan.

Multiply-accumulates (MACs) are counted per token, in a window of `seq_len` tokens that is read at once:

    every linear of a layer        out * in of what stays (biases and norms are no multiplications of matrices)
    experts                        those that one token goes to, the shared ones, and the router
    attention, Q K^T and A V       seq_len * (width of the heads), each; the causal mask saves nothing, as in
                                   `torch.utils.flop_counter`, whose FLOPs are 2 * MACs
    the head                       vocabulary * hidden, also where it is tied to the embedding
    looking up the embedding       nothing
"""

from __future__ import annotations

from math import prod

from hgsp_core.artifacts import Plan
from hgsp_core.model.layout import BlockLayout, LayerLayout, Layout

#: what `costs` gives
COSTS = ("parameters", "layer_parameters", "active_parameters", "macs", "bytes", "kv_cache_bytes_per_token")


def costs(layout: Layout, plan: Plan, seq_len: int, bytes_per_parameter: float) -> dict[str, int]:
    """Costs of the model that `plan` leaves.

    Args:
        seq_len: tokens of the window that the MACs are for.
        bytes_per_parameter: of the dtype that the model is saved and run in (bfloat16: 2).

    Returns:
        parameters                 all, tied ones once
        layer_parameters           those of the decoder layers
        active_parameters          those that a token meets; only of models with experts
        macs                       multiply-accumulates per token, see above
        bytes                      parameters * bytes_per_parameter
        kv_cache_bytes_per_token   what generation keeps for each token, in the same dtype
    """
    parameters = plan.parameters_after(layout)
    outside = layout.parameters - layout.layer_parameters
    pruned = plan.layout_after(layout)
    kept = pruned.blocks()
    active = {"active_parameters": pruned.active_parameters} if any(block.routed for block in layout.blocks()) else {}
    macs = _head_macs(layout) + sum(_block_macs(block, seq_len) for block in kept)
    cached = sum(_cached_values(block) for block in kept) + sum(map(_placeholders, pruned.layers))
    return {
        "parameters": parameters,
        "layer_parameters": parameters - outside,
        **active,
        "macs": macs,
        "bytes": round(parameters * bytes_per_parameter),
        "kv_cache_bytes_per_token": round(cached * bytes_per_parameter),
    }


def _head_macs(layout: Layout) -> int:
    """vocabulary * hidden; a tied head multiplies by the embedding's weight."""
    names = (f"{layout.architecture.head}.weight", f"{layout.architecture.embed}.weight")
    return prod(next(layout.outside[name] for name in names if name in layout.outside))


def _block_macs(block: BlockLayout, seq_len: int) -> int:
    """Linears of one block and, where it mixes tokens, its attention over `seq_len` of them."""
    macs = sum(prod(s.shape) for s in block.linears)
    macs += sum(prod(shape) for _, shape in block.fixed if len(shape) > 1)
    if block.routed:
        router = sum(prod(s.shape) for s in block.slices if s.local == block.axis.router)
        experts = sum(prod(s.shape) for s in block.slices if len(s.shape) > 2)
        macs += router + experts * min(block.chosen, block.units) // block.units
    if block.axis.cache:
        macs += 2 * seq_len * block.writer.shape[1]  # inputs of o_proj = width of all query heads
    return macs


def _placeholders(layer: LayerLayout) -> int:
    """Numbers that a layer without attention keeps for each past token: a cache needs a key and a value of every layer."""
    return 0 if any(block.axis.cache for block in layer.blocks.values()) else 2


def _cached_values(block: BlockLayout) -> int:
    """Numbers that the block keeps for each past token: the outputs of k_proj and v_proj."""
    return sum(block.slice_of(module).shape[0] for module in block.axis.cache)
