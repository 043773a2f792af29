"""The config.json of a pruned model, from the original one and the plan.

A uniform plan keeps a stock `model_type`, its own or a related one (`rehouse.py`): only numbers change. Any other plan
becomes model type `hgsp`, whose `per_layer_config` says where layers differ (`modeling_hgsp.py`, shipped with it).
Which keys shrink is the architecture's data; this file knows no family.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hgsp_core.artifacts import Plan
from hgsp_core.checkpoint import MODEL_TYPE
from hgsp_core.checkpoint.rehouse import housed_config, original_config
from hgsp_core.checkpoint.trust import AUTO_MAP
from hgsp_core.model.architecture import Axis
from hgsp_core.model.layout import BlockLayout, Layout


def pruned_config(layout: Layout, plan: Plan) -> dict[str, Any]:
    """The content of config.json after pruning `layout.config` by `plan`."""
    config = _reduced_config(layout, plan)
    if plan.is_uniform():
        uniform = deepcopy(config)
        for layer in plan.kept_layers():  # which may have different axes
            for block in layout.layers[layer].blocks.values():
                uniform.update(_sizes(layout, plan, block))
        uniform |= {old: uniform[new] for old, new in layout.architecture.renamed.items() if old in uniform}
        if housed := housed_config(layout, uniform):
            return dict(housed)
    return _layered_config(layout, plan, config)


def _layered_config(layout: Layout, plan: Plan, config: dict[str, Any]) -> dict[str, Any]:
    kept_layers = plan.kept_layers()
    per_layer = {}
    for new, old in enumerate(kept_layers):
        sizes: dict[str, int | list[str]] = {}
        skip: list[str] = []
        for name, block in layout.layers[old].blocks.items():
            if not plan.block(block).kept:
                skip.append(name)
                if block.axis.cache:  # every layer has a cache, in transformers and vLLM: of one KV head
                    sizes[block.axis.units] = 1
            elif plan.block(block).loses:
                sizes.update(_sizes(layout, plan, block))
        if skip:
            sizes["skip"] = skip
        if sizes:
            per_layer[str(new)] = sizes

    pairs = [axis.name for axis in layout.architecture.axes if axis.pair]
    return {
        **config,
        "model_type": MODEL_TYPE,
        "base_model_type": layout.architecture.model_type,
        "architectures": ["HgspForCausalLM"],
        "auto_map": dict(AUTO_MAP),
        "blocks": {axis.name: [axis.block, *_norms(axis)] for axis in layout.architecture.axes},
        **({"pairs": pairs} if pairs else {}),
        "per_layer_config": per_layer,
        "hgsp": {"kept_layers": kept_layers},
    }


def _reduced_config(layout: Layout, plan: Plan) -> dict[str, Any]:
    """The original config for the kept layers, with an explicit head size.

    transformers otherwise derives it from a number of heads that no longer holds.
    """
    kept = plan.kept_layers()
    config = deepcopy(dict(layout.config))
    config.pop("auto_map", None)  # code of the original, which is neither run nor copied
    config["num_hidden_layers"] = len(kept)
    for key, value in vars(original_config(layout)).items():
        if "layer" in key and isinstance(value, (list, tuple)) and len(value) == len(layout.layers):
            config[key] = [value[i] for i in kept]
    for axis in layout.architecture.axes:
        if axis.absent:
            lacking = [new for new, old in enumerate(kept) if axis.name not in layout.layers[old].blocks]
            config |= {**axis.with_absent, axis.absent: lacking}
    for block in layout.layers[0].blocks.values():
        for module in block.axis.cache[:1]:
            config["head_dim"] = block.slice_of(module).width
    return config


def _sizes(layout: Layout, plan: Plan, block: BlockLayout) -> dict[str, int]:
    """The config keys that count a block's units, or are in proportion to them, at their new values."""
    own = plan.block(block)
    kept = len(own.kept)
    scaled = {key: int(layout.config[key]) * kept // block.units for key in block.axis.scales}
    if own.heads_per_unit:
        scaled = {key: number * own.heads_per_unit // block.heads for key, number in scaled.items()}
    return {block.axis.units: kept, **scaled}


def _norms(axis: Axis) -> list[str]:
    """The fixed modules of an axis that do not vanish with its block: the norm in front of it."""
    return [module for module in axis.fixed if not module.startswith(f"{axis.block}.")]
