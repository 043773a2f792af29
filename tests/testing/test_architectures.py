"""Each wrong architecture fails the conformance kit for its own reason, and only for that."""

from dataclasses import replace
from unittest import SkipTest

import pytest
import torch
from hgsp_gemma import GEMMA3
from hgsp_more import OLMO2
from hgsp_phi import PHI3
from hgsp_qwen import QWEN3
from transformers import CONFIG_MAPPING, GptOssConfig, Qwen3MoeConfig
from transformers.pytorch_utils import Conv1D

from hgsp_core.model.architecture import GATED_EXPERTS, Slice
from hgsp_core.testing import architecture_checks
from hgsp_core.testing.model import SAMPLE, random_model, tiny_config
from tests.testing.fakes import families  # noqa: F401 - registers its families

GOOD = replace(SAMPLE, summary="a Llama")
ATTENTION, MLP = GOOD.axes


def wrong(attention=None, mlp=None, **changed):
    return replace(GOOD, axes=(replace(ATTENTION, **attention or {}), replace(MLP, **mlp or {})), **changed)


def sliced(axis, **dims):
    """The axis with the dim of some slices changed, by the last part of their names; None leaves it out."""
    old = {s.module: dims.get(s.module.split(".")[-1], s.dim) for s in axis.slices}
    return {"slices": tuple(Slice(module, dim) for module, dim in old.items() if dim is not None)}


def of_family(model_type, **values):
    """The right data for a family, and a model of it."""
    architecture = replace(GOOD, model_type=model_type)
    config = CONFIG_MAPPING[model_type](**tiny_config(GOOD).to_dict() | {"model_type": model_type, **values})
    return architecture, lambda: random_model(config)


def transposed():
    """A Llama whose MLPs store their weights [in, out], as GPT-2's do."""
    model = random_model(tiny_config(GOOD, biases=True))
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            linear = layer.mlp.get_submodule(name)
            stored = Conv1D(linear.out_features, linear.in_features)
            stored.weight.data, stored.bias.data = linear.weight.data.T.contiguous(), linear.bias.data
            layer.mlp.set_submodule(name, stored)
    return model


def patched():
    """A Llama with a setting that is in no config and in no weight."""
    model = random_model(tiny_config(GOOD))
    model.model.layers[0].self_attn.scaling *= 2
    return model


def other(family, attention=None, mlp=None):
    """The data of a family with something changed, and a model of it."""
    first, second = family.axes
    axes = (replace(first, **attention or {}), replace(second, **mlp or {}))
    return replace(family, axes=axes), lambda: random_model(tiny_config(family))


#: q, k and v are one linear in Phi-3, gate and up another
QKV, GATE_UP = "self_attn.qkv_proj", "mlp.gate_up_proj"
O_PROJ, DOWN_PROJ = Slice("self_attn.o_proj", 1), Slice("mlp.down_proj", 1)
HEADS, GROUPS = (Slice(QKV, 0, rows=f"num_{counted}_heads") for counted in ("attention", "key_value"))
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
NORMS_SWAPPED = wrong(attention={"fixed": MLP.fixed}, mlp={"fixed": ATTENTION.fixed})

#: a family with experts, which the kit can make a model of
EXPERTS = replace(GOOD, model_type="mixtral", axes=(ATTENTION, GATED_EXPERTS))
MIXED = replace(
    GOOD,
    model_type="qwen3_moe",
    axes=(
        replace(ATTENTION, fixed=(*ATTENTION.fixed, "self_attn.q_norm", "self_attn.k_norm")),
        replace(MLP, optional=True),
        replace(GATED_EXPERTS, optional=True),
    ),
)
#: experts in all layers but the last one
MIXED_CONFIG = Qwen3MoeConfig(
    **tiny_config(GOOD).to_dict()
    | {
        "model_type": "qwen3_moe",
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "mlp_only_layers": [3],
    }
)
PAIRED = replace(
    GOOD,
    model_type="gpt_oss",
    axes=(
        replace(ATTENTION, slices=(*ATTENTION.slices, Slice("self_attn.sinks", 0, bare=True))),
        replace(
            GATED_EXPERTS,
            router="mlp.router",
            slices=(
                Slice("mlp.router", 0),
                *(Slice(f"mlp.experts.{n}_proj{b}", 0, bare=True) for n in ("gate_up", "down") for b in ("", "_bias")),
            ),
        ),
    ),
)


def of_experts(**changed):
    return replace(EXPERTS, axes=(ATTENTION, replace(GATED_EXPERTS, **changed)))


#: (architecture, model or None for the kit's own, the one check that fails, what it says)
FAKES = {
    "no summary": (SAMPLE, None, "is_documented", "`summary` is empty"),
    "other family": (
        replace(GOOD, model_type="mistral"),
        lambda: random_model(tiny_config(GOOD)),
        "model_type_is_the_models",
        "the model is a 'llama'",
    ),
    "misspelled module": (
        wrong(attention={"block": "self_atn"}),
        None,
        "modules_exist",
        "no module 'self_atn'. Did you mean 'self_attn'",
    ),
    "cache outside the slices": (
        wrong(attention={"cache": ("self_attn.kv",)}),
        None,
        "modules_exist",
        "'self_attn.kv'",
    ),
    "head and embedding swapped": (
        wrong(embed=GOOD.head, head=GOOD.embed),
        None,
        "modules_exist",
        "`embed`: 'lm_head' is not",
    ),
    "units of no config key": (
        wrong(mlp={"units": "ffn_size"}),
        lambda: random_model(tiny_config(GOOD)),
        "sizes_divide",
        "no number 'ffn_size'",
    ),
    "units that do not divide": (
        wrong(attention={"units": "hidden_size", "scales": ()}),
        lambda: random_model(tiny_config(GOOD)),
        "sizes_divide",
        "does not divide into hidden_size = 48 units",
    ),
    "scales out of proportion": (
        wrong(attention={"scales": ("vocab_size",)}),
        lambda: random_model(tiny_config(GOOD)),
        "sizes_divide",
        "vocab_size = 61 is no multiple",
    ),
    "dim that a weight has not": (wrong(mlp=sliced(MLP, up_proj=2)), None, "sizes_divide", "dim is 0"),
    "forgotten norm": (
        wrong(mlp={"fixed": ()}),
        None,
        "every_parameter_is_accounted_for",
        "post_attention_layernorm.weight",
    ),
    "forgotten q and k norms": (
        replace(GOOD, model_type="qwen3"),
        lambda: random_model(tiny_config(QWEN3)),
        "every_parameter_is_accounted_for",
        "self_attn.k_norm.weight",
    ),
    "forgotten linear": (
        wrong(mlp=sliced(MLP, gate_proj=None)),
        None,
        "every_parameter_is_accounted_for",
        "mlp.gate_proj.weight",
    ),
    "o_proj cut by rows": (
        wrong(attention=sliced(ATTENTION, o_proj=0)),
        None,
        "axes_are_cut_on_both_sides",
        "'attention' has no slice with dim 1",
    ),
    "no cache": (
        wrong(attention={"cache": ()}),
        lambda: random_model(tiny_config(GOOD)),
        "axes_are_cut_on_both_sides",
        "`cache` must be given",
    ),
    "attention by another name": (
        wrong(attention={"name": "attn"}),
        None,
        "axes_are_cut_on_both_sides",
        "named 'attention'",
    ),
    "transposed weights": (
        wrong(mlp=sliced(MLP, gate_proj=1, up_proj=1, down_proj=0)),
        transposed,
        "biases_follow_the_rows",
        "Conv1D",
    ),
    "block that is not the branch": (
        wrong(mlp={"block": "mlp.up_proj"}),
        None,
        "blocks_add_to_the_residual_stream",
        "'mlp.up_proj' of layer 0 does not",
    ),
    "branches are scaled": (
        *of_family("granite", residual_multiplier=0.5),
        "blocks_add_to_the_residual_stream",
        "multiplied by 0.5 (in config.json: residual_multiplier): name the config key in `gain`",
    ),
    "norm behind a block": (
        *other(GEMMA3, attention={"after": ""}),
        "blocks_add_to_the_residual_stream",
        "'post_attention_layernorm' reads what 'self_attn' returns: name it in `after`",
    ),
    "norm in front of a block": (
        *other(GEMMA3, mlp={"after": "pre_feedforward_layernorm"}),
        "blocks_add_to_the_residual_stream",
        "`after`: 'pre_feedforward_layernorm' does not read what 'mlp' returns",
    ),
    "part of a fused linear by the wrong count": (
        *other(PHI3, attention={"slices": (Slice(QKV, 0), GROUPS, GROUPS, O_PROJ)}),
        "sizes_divide",
        "cannot share in proportion to num_key_value_heads : num_key_value_heads : num_key_value_heads = 3 : 3 : 3",
    ),
    "part of a fused linear by no count": (
        *other(PHI3, attention={"slices": (Slice(QKV, 0, rows="num_heads"), GROUPS, GROUPS, O_PROJ)}),
        "sizes_divide",
        "`rows`: config.json has no number 'num_heads'",
    ),
    "part of a fused linear twice": (
        *other(PHI3, mlp={"slices": (*[Slice(GATE_UP, 0)] * 3, DOWN_PROJ)}),
        "sizes_divide",
        "'mlp.gate_up_proj' has 48 lines, which its 3 slices cannot share",
    ),
    "parts of a fused linear in another order": (
        *other(PHI3, attention={"slices": (GROUPS, HEADS, GROUPS, O_PROJ), "cache": (f"{QKV}[0]", f"{QKV}[2]")}),
        "pruned_equals_masked",
        "in the order in which they lie in it",
    ),
    "fused linear as one": (
        *other(PHI3, mlp={"slices": (Slice(GATE_UP, 0), DOWN_PROJ)}),
        "pruned_equals_masked",
        "a fused linear has a slice for each of its parts",
    ),
    "norms over all heads taken for fixed ones": (
        *other(OLMO2, attention={"fixed": (*OLMO2.axes[0].fixed, *HEAD_NORMS), "norms": ()}),
        "config_keys_shrink",
        "such a norm belongs into `norms`",
    ),
    "norms of single heads taken for norms over all": (
        *other(QWEN3, attention={"fixed": ATTENTION.fixed, "norms": HEAD_NORMS}),
        "sizes_divide",
        "A norm of single heads belongs into `fixed`",
    ),
    "what is written is scaled": (
        *of_family("fake-halved"),
        "blocks_return_what_their_writers_return",
        "'mlp' returns something else than its 'mlp.down_proj' gives",
    ),
    "layers in another order": (
        *of_family("fake-backwards"),
        "sweep_equals_autograd",
        "runs the `layers` one after another",
    ),
    "state outside the config": (GOOD, patched, "keep_all_is_the_identity", "neither in its config nor in its weights"),
    "heads that do not shrink": (
        wrong(attention={"scales": ()}),
        lambda: random_model(tiny_config(GOOD)),
        "config_keys_shrink",
        "Check `units` ('num_key_value_heads') and `scales` ()",
    ),
    "logits by the number of heads": (*of_family("fake-width"), "uniformly_pruned_equals_masked", "stock class"),
    "logits by the size of a group": (*of_family("fake-grouped"), "query_heads_can_go", "Check `scales` and `cache`"),
    "router that keeps its rows": (
        of_experts(slices=GATED_EXPERTS.slices[1:], fixed=(*GATED_EXPERTS.fixed, "mlp.gate")),
        None,
        "axes_are_cut_on_both_sides",
        "rows of their router 'mlp.gate'",
    ),
    "misspelled tensor of experts": (
        of_experts(slices=(GATED_EXPERTS.slices[0], Slice("mlp.experts.gate_up", 0, bare=True))),
        None,
        "modules_exist",
        "no parameter 'mlp.experts.gate_up'. Did you mean 'mlp.experts.gate_up_proj'",
    ),
    "forgotten tensor of experts": (
        of_experts(slices=GATED_EXPERTS.slices[:2]),
        None,
        "every_parameter_is_accounted_for",
        "mlp.experts.down_proj",
    ),
    "experts by another count": (
        of_experts(units="num_experts_per_tok"),
        lambda: random_model(tiny_config(EXPERTS)),
        "every_parameter_is_accounted_for",
        "has 6 rows, but config.json says 2",
    ),
    "dense layers by their old numbers": (
        MIXED,
        lambda: random_model(MIXED_CONFIG),
        "blocks_and_layers_can_go",
        "",
    ),
    "block that returns a pair": (
        PAIRED,
        lambda: random_model(GptOssConfig(**tiny_config(PAIRED).to_dict())),
        "blocks_and_layers_can_go",
        "iteration over a 0-d tensor",
    ),
    "norms of the other block": (NORMS_SWAPPED, None, "blocks_and_layers_can_go", "Check `block`"),
    "cache not used": (*of_family("fake-forgetful"), "generates", "does not use the cache"),
    "family of this process only": (*of_family("fake-only-here"), "export_reloads", "fake-only-here"),
}


def faults(checks):
    torch.set_num_threads(1)
    return {check.name: str(check.fault) for check in checks if isinstance(check.fault, AssertionError)}


@pytest.mark.parametrize("name", FAKES)
def test_a_wrong_architecture_fails_for_its_own_reason(name):
    architecture, model, expected, says = FAKES[name]
    found = faults(architecture_checks(architecture, model))
    assert list(found) == [expected], found
    assert says in found[expected]


def test_every_check_has_an_architecture_that_fails_it():
    assert {check.name for check in architecture_checks(GOOD)} == {expected for _, _, expected, _ in FAKES.values()}


@pytest.mark.slow  # the plugins' own tests show as much
@pytest.mark.parametrize("biases", [False, True])
def test_the_right_one_passes_all(biases):
    assert faults(architecture_checks(GOOD, tiny_config(GOOD, biases))) == {}


def test_a_check_that_cannot_tell_anything_is_skipped_and_says_why():
    checks = {check.name: check for check in architecture_checks(wrong(mlp={"block": "mlpp"}))}
    with pytest.raises(AssertionError, match="no module 'mlpp'"):
        checks["modules_exist"]()
    with pytest.raises(SkipTest, match="not run, because 'modules_exist' does not hold"):
        checks["generates"]()
