"""Layouts, scores and priors for the allocators' tests, made from shapes alone."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from hgsp_core.allocate.contract import AllocateJob
from hgsp_core.artifacts import Plan, Priors, Scores
from hgsp_core.model.architecture import Architecture, Axis, Slice
from hgsp_core.model.layout import Layout, read_layout

LLAMA = Architecture(
    model_type="llama",
    layers="model.layers",
    embed="model.embed_tokens",
    norm="model.norm",
    head="lm_head",
    axes=(
        Axis(
            "attention",
            units="num_key_value_heads",
            scales=("num_attention_heads",),
            block="self_attn",
            fixed=("input_layernorm",),
            cache=("self_attn.k_proj", "self_attn.v_proj"),
            slices=(
                Slice("self_attn.q_proj", 0),
                Slice("self_attn.k_proj", 0),
                Slice("self_attn.v_proj", 0),
                Slice("self_attn.o_proj", 1),
            ),
        ),
        Axis(
            "mlp",
            units="intermediate_size",
            block="mlp",
            fixed=("post_attention_layernorm",),
            slices=(Slice("mlp.gate_proj", 0), Slice("mlp.up_proj", 0), Slice("mlp.down_proj", 1)),
        ),
    ),
)


def llama(
    layers: int, hidden: int, heads: int, kv_heads: int, channels: int, vocab: int, head_dim: int, bias: bool = False
) -> Layout:
    """A Llama; with `bias` one whose linears all have biases, so that blocks own more than their units."""
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    shapes["lm_head.weight"] = (vocab, hidden)
    q, kv = heads * head_dim, kv_heads * head_dim
    for layer in range(layers):
        linears = {
            "self_attn.q_proj": (q, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, q),
            "mlp.gate_proj": (channels, hidden),
            "mlp.up_proj": (channels, hidden),
            "mlp.down_proj": (hidden, channels),
        }
        for name, shape in linears.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
            if bias:
                shapes[f"model.layers.{layer}.{name}.bias"] = shape[:1]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{norm}.weight"] = (hidden,)
    config = {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": channels,
    }
    return read_layout(LLAMA, config, shapes)


def small(layers: int = 6, kv_heads: int = 4, channels: int = 64, bias: bool = False) -> Layout:
    """A group costs as much as 8 channels."""
    return llama(layers, 16, 2 * kv_heads, kv_heads, channels, 32, head_dim=4, bias=bias)


def llama3_8b() -> Layout:
    return llama(32, 4096, 32, 8, 14336, 128256, head_dim=128)


def spread_scores(layout: Layout, seed: int = 0, decades: float = 2.0) -> Scores:
    """Lognormal importances, whose scale differs by some decades between layers, as gradients' do."""
    rng = np.random.default_rng(seed)
    return Scores.of(
        layout,
        [
            {name: rng.lognormal(size=b.units) * 10 ** rng.uniform(0, decades) for name, b in layer.blocks.items()}
            for layer in layout.layers
        ],
    )


def spread_priors(layout: Layout, seed: int = 0) -> Priors:
    rng = np.random.default_rng(seed)
    count = len(layout.layers)
    return Priors(rng.lognormal(size=count), {"attention": rng.lognormal(size=count), "mlp": rng.lognormal(size=count)})


def job(layout: Layout, seed: int = 0) -> AllocateJob:
    return AllocateJob(layout, spread_scores(layout, seed), spread_priors(layout, seed))


@st.composite
def layouts(draw) -> Layout:
    heads = draw(st.sampled_from([(1, 1), (2, 2), (4, 1), (4, 2), (8, 4), (7, 7)]))
    return llama(
        layers=draw(st.integers(2, 5)),
        hidden=draw(st.sampled_from([4, 8])),
        heads=heads[0],
        kv_heads=heads[1],
        channels=draw(st.integers(2, 12)),
        vocab=draw(st.integers(1, 9)),
        head_dim=draw(st.sampled_from([2, 4])),
        bias=draw(st.booleans()),
    )


@st.composite
def jobs(draw) -> AllocateJob:
    """Small models with equal scores among them, and priors that are negative, huge or not measured."""
    layout = draw(layouts())
    value = draw(st.sampled_from([st.integers(0, 5).map(float), st.floats(0, 1e3, width=32)]))
    importance = [
        {name: np.array(draw(st.lists(value, min_size=b.units, max_size=b.units))) for name, b in layer.blocks.items()}
        for layer in layout.layers
    ]
    count = len(layout.layers)
    prior = st.sampled_from([-0.5, 0.0, 0.25, 0.5, 2.0, 31.6, 5292.0])
    layer = np.array(draw(st.lists(prior, min_size=count, max_size=count)))
    measured = draw(st.lists(st.sampled_from(["attention", "mlp"]), unique=True))
    block = prior | st.just(float("nan"))
    blocks = {name: np.array(draw(st.lists(block, min_size=count, max_size=count))) for name in measured}
    return AllocateJob(layout, Scores.of(layout, importance), Priors(layer, blocks))


def some_of(**limits: st.SearchStrategy) -> st.SearchStrategy:
    """One to three of the limits at a time: hypothesis's own `optional=` leaves nearly all of them out."""
    keys = st.lists(st.sampled_from(sorted(limits)), min_size=1, max_size=3, unique=True)
    return keys.flatmap(lambda chosen: st.fixed_dictionaries({key: limits[key] for key in chosen}))


def sizes(plan: Plan) -> list[tuple[int, ...]]:
    """Units kept, by layer and axis."""
    return [tuple(len(block.kept) for block in layer.values()) for layer in plan.layers]


def channel_cost(layout: Layout) -> int:
    return layout.layers[0].blocks["mlp"].unit_cost


def short_of(plan: Plan, layout: Layout) -> int:
    """Parameters of the budget that were not removed."""
    return plan.before - plan.target - plan.removed(layout)
