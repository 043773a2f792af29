"""What Torch-Pruning decides is read back right, meets the budget, or is an error that says what to do."""

import sys

import numpy as np
import pytest
from hgsp_baselines.errors import TorchPruningError
from hgsp_baselines.torch_pruning import TorchPruning, TorchPruningParams
from hgsp_gemma import GEMMA3
from hgsp_phi import PHI3
from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config

from hgsp_core import Scores
from hgsp_core.allocate.contract import AllocateJob
from hgsp_core.testing.model import SAMPLE, layout_of, random_model

SIZE = dict(vocab_size=50, hidden_size=48, intermediate_size=40, num_hidden_layers=3, num_attention_heads=6, head_dim=8)
HEADS = layout_of(SAMPLE, random_model(LlamaConfig(**SIZE, num_key_value_heads=6)))
GROUPS = layout_of(
    SAMPLE, random_model(LlamaConfig(**SIZE, num_key_value_heads=3))
)  # 2 to a group: the case that never ends

FUSED = layout_of(PHI3, random_model(Phi3Config(**SIZE, num_key_value_heads=6, pad_token_id=None)))
#: for the heads of 8 numbers that the model has, not for those of the stand-in
LONG_ROPE = dict(rope_type="longrope", rope_theta=1e4, original_max_position_embeddings=32)
LONG_ROPE |= dict(short_factor=[1.0] * 4, long_factor=[2.0] * 4)
LONG = layout_of(
    PHI3, random_model(Phi3Config(**SIZE, num_key_value_heads=6, pad_token_id=None, rope_parameters=LONG_ROPE))
)
NORMED = layout_of(GEMMA3, random_model(Gemma3TextConfig(**SIZE, num_key_value_heads=6)))


def plan(layout, **params):
    generator = np.random.default_rng(0)
    importance = [
        {axis: generator.lognormal(size=b.units) for axis, b in layer.blocks.items()} for layer in layout.layers
    ]
    scores = Scores.of(layout, importance)
    return scores, TorchPruning(TorchPruningParams(of="layers", **params))(AllocateJob(layout, scores, None))


def channels(layout):
    return sum(b.unit_cost for b in layout.blocks() if b.axis.name == "mlp")


@pytest.mark.parametrize("layout", [HEADS, FUSED, LONG], ids=["apart", "fused", "fused, with long rope"])
def test_the_lowest_scored_heads_and_channels_of_every_layer_go(layout):
    scores, result = plan(layout, ratio=0.3)
    sizes = {axis: {len(layer[axis].kept) for layer in result.layers} for axis in ("attention", "mlp")}
    assert sizes["attention"] == {5}
    assert len(sizes["mlp"]) == 1
    for block in layout.blocks():
        units = scores.units_of(block.layer, block.axis.name)
        kept = result.block(block).kept
        assert sorted(np.argsort(scores.score[units])[-len(kept) :].tolist()) == list(kept)


@pytest.mark.parametrize("layout", [HEADS, GROUPS], ids=["heads", "groups"])
@pytest.mark.parametrize("together", [False, True], ids=["local", "global"])
def test_what_is_asked_goes_and_never_more(layout, together):
    _, result = plan(layout, ratio=0.2, global_pruning=together)
    budget = 0.2 * layout.layer_parameters
    assert 0 <= budget - result.removed(layout) <= channels(layout)
    assert f"{result.removed(layout):,}" in result.notes[0]


def test_global_pruning_takes_the_lowest_scored_channels_of_all_layers():
    scores, result = plan(GROUPS, ratio=0.2, global_pruning=True)
    kept = np.zeros(len(scores), dtype=bool)
    for block in GROUPS.blocks():
        kept[scores.units_of(block.layer, block.axis.name)[list(result.block(block).kept)]] = True
    mlp = scores.axis == scores.axes.index("mlp")
    assert scores.score[mlp & ~kept].max() < scores.score[mlp & kept].min()
    assert len({len(layer["mlp"].kept) for layer in result.layers}) > 1


def test_grouped_attention_stays_whole_and_the_plan_says_so():
    _, result = plan(GROUPS, ratio=0.2)
    assert all(len(layer["attention"].kept) == 3 for layer in result.layers)
    assert "Attention is not pruned" in result.notes[1]
    assert len(plan(GROUPS, ratio=0.2, attention="keep")[1].notes) == 1  # asked for: nothing to tell


def test_heads_that_torch_pruning_does_not_find_are_told_or_an_error():
    _, result = plan(NORMED, ratio=0.3)
    assert all(len(layer["attention"].kept) == 6 for layer in result.layers)
    assert "finds no heads to remove" in result.notes[1]
    with pytest.raises(
        TorchPruningError, match=r"no heads to remove in a model of type 'gemma3_text'.*attention: keep"
    ):
        plan(NORMED, ratio=0.3, attention="prune")


def test_grouped_attention_that_must_be_pruned_is_an_error_before_torch_pruning_is_called(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(TorchPruningError, match=r"6 query heads share 3 KV heads.*attention: keep"):
        plan(GROUPS, ratio=0.2, attention="prune")


def test_a_ratio_that_the_mlps_cannot_give_is_an_error_and_no_smaller_plan():
    with pytest.raises(TorchPruningError, match=r"0.7 of layers is requested.*Attention is not pruned"):
        plan(GROUPS, ratio=0.7)


def test_without_the_package_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(TorchPruningError, match=r"pip install 'hgsp-baselines\[torch-pruning\]'"):
        plan(HEADS, ratio=0.2)
