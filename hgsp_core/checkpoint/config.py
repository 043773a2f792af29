"""The config.json of a pruned model, from the original one and the plan.

A uniform plan keeps the stock `model_type`: only numbers change. Any other plan becomes model type `hgsp`, whose
`per_layer_config` says where layers differ (see `modeling_hgsp.py`, which is shipped with such a model).
Which keys shrink is the architecture's data; this file knows no family.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hgsp_core.artifacts import Plan
from hgsp_core.layout import BlockLayout, Layout

MODEL_TYPE = "hgsp"
MODELING_FILE = "modeling_hgsp.py"
_AUTO_MAP = {
    "AutoConfig": "modeling_hgsp.HgspConfig",
    "AutoModel": "modeling_hgsp.HgspModel",
    "AutoModelForCausalLM": "modeling_hgsp.HgspForCausalLM",
}
#: transformers' word for a layer that has no attention and so no KV cache
_NO_ATTENTION = "moe"


def pruned_config(layout: Layout, plan: Plan) -> dict[str, Any]:
    """The content of config.json after pruning `layout.config` by `plan`."""
    return _uniform_config(layout, plan) if plan.is_uniform() else _layered_config(layout, plan)


def _uniform_config(layout: Layout, plan: Plan) -> dict[str, Any]:
    config = _reduced_config(layout, plan)
    first = layout.layers[plan.kept_layers()[0]]
    for block in first.blocks.values():
        config.update(_sizes(layout, plan, block))
    return config


def _layered_config(layout: Layout, plan: Plan) -> dict[str, Any]:
    config = _reduced_config(layout, plan)
    stock = _stock_config(layout)
    kept_layers = plan.kept_layers()
    default = "sliding_attention" if getattr(stock, "sliding_window", None) else "full_attention"
    types = getattr(stock, "layer_types", None) or [default] * len(layout.layers)

    per_layer, layer_types = {}, []
    for new, old in enumerate(kept_layers):
        sizes, skip = {}, []
        for name, block in layout.layers[old].blocks.items():
            if not plan.block(block).kept:
                skip.append(name)
            elif len(plan.block(block).kept) < block.units:
                sizes.update(_sizes(layout, plan, block))
        if skip:
            sizes["skip"] = skip
        if sizes:
            per_layer[str(new)] = sizes
        layer_types.append(_NO_ATTENTION if "attention" in skip else types[old])

    return {
        **config,
        "model_type": MODEL_TYPE,
        "base_model_type": layout.architecture.model_type,
        "architectures": ["HgspForCausalLM"],
        "auto_map": dict(_AUTO_MAP),
        "blocks": {axis.name: [axis.block, *_outside(axis)] for axis in layout.architecture.axes},
        "layer_types": layer_types,
        "per_layer_config": per_layer,
        "hgsp": {"layers": kept_layers},
    }
