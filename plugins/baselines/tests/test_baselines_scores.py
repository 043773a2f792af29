"""Scores against plain numpy and plain autograd on a whole model: no sweep, no collector, loops over single columns."""

import numpy as np
import pytest
import torch
from hgsp_baselines.flap import Flap, standardised
from hgsp_baselines.llm_pruner import LLMPruner
from hgsp_baselines.llm_pruner_params import LLMPrunerParams
from hgsp_baselines.wanda_sp import WandaSp
from hgsp_more import OLMO2
from hgsp_phi import PHI3
from transformers import Phi3Config, Phi3ForCausalLM

from hgsp_core import Params
from hgsp_core.engine.run import run_sweep
from hgsp_core.engine.weights import Resident
from hgsp_core.score.contract import ScoreJob
from hgsp_core.testing.model import SAMPLE, layout_of, random_model, sample_layout, sample_model, tiny_config

TOKENS = np.random.default_rng(3).integers(0, 61, (5, 9))
LAYOUT, MODEL = sample_layout(), sample_model()


def scores(scorer, model=MODEL, layout=LAYOUT):
    statistics = run_sweep(Resident(model, layout), layout, TOKENS, scorer.collectors, batch_size=2)
    return scorer(ScoreJob(layout, statistics, seed=0))


@pytest.fixture(scope="module")
def inputs():
    """Full name of o_proj or down_proj -> its input over all tokens [tokens, in]."""
    found, hooks = {}, []
    for block in LAYOUT.blocks():
        module, name = MODEL.get_submodule(block.writer.module), block.writer.module
        hooks.append(module.register_forward_pre_hook(lambda _, x, name=name: found.update({name: x[0].double()})))
    with torch.no_grad():
        MODEL(torch.from_numpy(TOKENS), use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: x.flatten(0, 1).numpy() for name, x in found.items()}


def weight(name, model=MODEL):
    return model.get_parameter(name).detach().double().numpy()


def test_wanda_sp_sums_the_writers_columns_times_their_inputs_norms(inputs):
    result = scores(WandaSp(Params()))
    for block in LAYOUT.blocks():
        w, x, width = weight(block.writer.weight), inputs[block.writer.module], block.writer.width
        for unit, row in enumerate(result.units_of(block.layer, block.axis.name)):
            columns = range(unit * width, (unit + 1) * width)
            expected = sum(np.abs(w[:, j]).sum() * np.linalg.norm(x[:, j]) for j in columns)
            assert result.importance[row] == pytest.approx(expected, rel=1e-4)
            assert result.score[row] == pytest.approx(expected / block.unit_cost, rel=1e-4)


def test_flap_is_the_standardised_variance_of_inputs_weighted_by_columns(inputs):
    result = scores(Flap(Params()))
    for block in LAYOUT.blocks():
        w, x, width = weight(block.writer.weight), inputs[block.writer.module], block.writer.width
        m = np.array([x[:, j].var() * (w[:, j] ** 2).sum() for j in range(x.shape[1])])
        z = (m - m.mean()) / m.std(ddof=1)
        rows = result.units_of(block.layer, block.axis.name)
        assert result.importance[rows] == pytest.approx(
            [m[u * width : (u + 1) * width].sum() for u in range(block.units)], rel=1e-3
        )
        assert result.score[rows] == pytest.approx(
            [z[u * width : (u + 1) * width].mean() for u in range(block.units)], rel=1e-3, abs=1e-3
        )
        assert result.score[rows].mean() == pytest.approx(
            0, abs=1e-9
        )  # blocks of all layers and kinds are on one scale


def test_standardising_a_hand_computed_case():
    assert standardised(np.array([1.0, 2.0, 3.0])).tolist() == [-1, 0, 1]
    assert standardised(np.array([4.0, 4.0])).tolist() == [0, 0]
    assert standardised(np.array([4.0])).tolist() == [0]


def gradients(tokens, model, layout):
    """Full name -> dL/dW of the mean causal loss, by one plain backward pass."""
    ids = torch.from_numpy(tokens)
    names = [s.weight for block in layout.blocks() for s in block.linears]
    logits = model(ids, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    found = torch.autograd.grad(loss, [model.get_parameter(name) for name in names])
    return {name: g.double().numpy() for name, g in zip(names, found, strict=True)}


SALIENCE = {
    "first": lambda w, g, h, dim: np.abs(w * g).sum(1 - dim),
    "mixed": lambda w, g, h, dim: np.abs(w * g - 0.5 * w**2 * h).sum(1 - dim),
    "vector": lambda w, g, h, dim: np.abs((w * g).sum(1 - dim)),
}


NORMED = random_model(tiny_config(OLMO2))
MODELS = {"biases": (MODEL, LAYOUT), "norms over all heads": (NORMED, layout_of(OLMO2, NORMED))}


@pytest.mark.parametrize("importance", SALIENCE)
@pytest.mark.parametrize("name", MODELS)
def test_llm_pruner_equals_plain_autograd_over_weights_of_linears(importance, name):
    model, layout = MODELS[name]
    result = scores(LLMPruner(LLMPrunerParams(importance=importance)), model, layout)
    whole = gradients(TOKENS, model, layout)
    single = [gradients(TOKENS[n : n + 1], model, layout) for n in range(len(TOKENS))]
    fisher = {name: np.mean([g[name] ** 2 for g in single], axis=0) for name in whole}
    for block in layout.blocks():
        expected = np.zeros(block.units)
        for s in block.linears:
            lines = SALIENCE[importance](weight(s.weight, model), whole[s.weight], fisher[s.weight], s.dim)
            expected += lines.reshape(block.units, s.width).sum(1)
        assert result.importance[result.units_of(block.layer, block.axis.name)] == pytest.approx(expected, rel=2e-3)


def test_the_importances_of_llm_pruner_are_three_different_ones():
    orders = {i: tuple(scores(LLMPruner(LLMPrunerParams(importance=i))).importance.round(9)) for i in SALIENCE}
    assert len(set(orders.values())) == 3


def fused(llama):
    """The same network as a Phi-3, which has q, k and v in one linear, and gate and up in another."""
    model = Phi3ForCausalLM(Phi3Config(**llama.config.to_dict() | {"model_type": "phi3"})).eval()
    tensors = llama.state_dict()
    for name, parts in {"self_attn.qkv_proj": "qkv", "mlp.gate_up_proj": ("gate", "up")}.items():
        for layer in range(llama.config.num_hidden_layers):
            at, whole = f"model.layers.{layer}.{name}", f"model.layers.{layer}.{name.partition('.')[0]}"
            tensors[f"{at}.weight"] = torch.cat([tensors.pop(f"{whole}.{part}_proj.weight") for part in parts])
    model.load_state_dict(tensors)
    return model


SCORERS = {i: LLMPruner(LLMPrunerParams(importance=i)) for i in SALIENCE}
SCORERS |= {"wanda-sp": WandaSp(Params()), "flap": Flap(Params())}


@pytest.mark.parametrize("name", SCORERS)
def test_the_parts_of_fused_linears_count_as_linears_of_their_own(name):
    llama = random_model(tiny_config(SAMPLE))
    phi = fused(llama)
    apart, together = (
        scores(SCORERS[name], model, layout_of(data, model)) for data, model in ((SAMPLE, llama), (PHI3, phi))
    )
    np.testing.assert_allclose(together.importance, apart.importance, rtol=1e-4)
    np.testing.assert_allclose(together.score, apart.score, rtol=1e-4, atol=1e-6)
