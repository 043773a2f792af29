"""`channel_multiple: auto`: the largest multiple that costs the plan next to nothing, within the budget."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import Field
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from hgsp_core import plan as forecast
from hgsp_core import run
from hgsp_core.allocate.budget import RatioParams
from hgsp_core.allocate.contract import AllocateJob, Allocator
from hgsp_core.allocate.hgsp import HGSPParams
from hgsp_core.allocate.layerwise import LayerwiseParams
from hgsp_core.allocate.limits import SizeLimits
from hgsp_core.allocate.multiple import MULTIPLES, TOLERATED, numbered, sized, weighed
from hgsp_core.allocate.ranking import GlobalParams
from hgsp_core.allocate.uniform import UniformParams
from hgsp_core.artifacts import Plan, Scores
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.cli import app
from hgsp_core.errors import RecipeError
from hgsp_core.plugin import registry
from hgsp_core.runtime.recipe import parse_recipe
from tests.helpers.allocate_models import job, llama, sizes, spread_priors
from tests.helpers.command import MODEL

#: wide enough for multiples; a group costs as much as 8 channels
WIDE = llama(4, 16, 8, 4, 2048, 32, head_dim=4)


def smooth(layout, seed: int, steepness: float) -> AllocateJob:
    """Importances of an MLP spread evenly over `steepness` decades, so that neighbours in its order are alike."""
    rng = np.random.default_rng(seed)

    def of_block(b):
        order = rng.permutation(b.units) if b.units > 100 else rng.random(b.units) * b.units
        return 10 ** (rng.uniform(0, 0.5) + steepness * order / b.units) * b.unit_cost

    importance = [{name: of_block(b) for name, b in layer.blocks.items()} for layer in layout.layers]
    return AllocateJob(layout, Scores.of(layout, importance), spread_priors(layout, seed))


def planned(use: str, params, task: AllocateJob) -> Plan:
    return registry.build(Allocator, use, params)(task)


def chosen(params) -> int:
    return params.limits.channel_multiple


def channels(plan: Plan) -> set[int]:
    return {kept for _, kept in sizes(plan)}


METHODS = [
    ("global", GlobalParams()),
    ("global", GlobalParams(uniform=True)),
    ("hgsp", HGSPParams()),
    ("hgsp", HGSPParams(uniform=True)),
    ("uniform", UniformParams()),
    ("uniform", UniformParams(uniform=True)),
    ("layerwise", LayerwiseParams()),
]


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    ratio=st.floats(0.05, 0.7),
    seed=st.integers(0, 100),
    steepness=st.sampled_from([0.1, 1.0, 4.0]),
    in_nats=st.booleans(),
)
def test_kept_channels_are_multiples_at_almost_no_cost_within_the_budget(method, ratio, seed, steepness, in_nats):
    use, params = method
    params = params.model_copy(update={"ratio": ratio})
    task = smooth(WIDE, seed, steepness)
    try:
        planned(use, numbered(params, 1), task)
    except PlanError:
        assume(False)  # rates by layer can leave less than the ratio asks for
    found, (note,) = sized(use, params, task, task.scores if in_nats else None)
    multiple = chosen(found)
    assert multiple in MULTIPLES
    assert f"auto chose {multiple}" in note
    plan, single = planned(use, found, task), planned(use, numbered(params, 1), task)
    assert all(kept % multiple == 0 for kept in channels(plan))
    assert plan.removed(WIDE) <= plan.before - plan.target == single.before - single.target
    if multiple == MULTIPLES[-1]:
        return  # the least one is taken whatever it costs
    assert plan.removed(WIDE) >= (1 - TOLERATED) * single.removed(WIDE)
    scores = task.scores if in_nats else weighed(registry.build(Allocator, use, params).scores(task))
    assert scores.removed(plan) <= (1 + TOLERATED) * scores.removed(single)


def test_flat_scores_allow_the_largest_multiple_and_steep_ones_do_not():
    params = GlobalParams(ratio=0.4)
    flat, _ = sized("global", params, smooth(WIDE, 0, 0.0), None)
    steep, (note,) = sized("global", params, smooth(WIDE, 0, 30.0), None)
    assert chosen(flat) == 128
    assert chosen(steep) < 128
    assert note.startswith(f"channel_multiple: auto chose {chosen(steep)}. Change of removed scores: 128: +")


def test_larger_multiples_than_the_chosen_one_cost_too_much():
    """Against plans made by hand, at the size that the plan in multiples has."""
    task = smooth(WIDE, 0, 6.0)
    params = GlobalParams(ratio=0.4)
    found, _ = sized("global", params, task, task.scores)
    larger = [multiple for multiple in MULTIPLES if multiple > chosen(found)]
    assert larger
    for multiple in larger:
        plan = planned("global", numbered(params, multiple), task)
        removed = plan.removed(WIDE)
        # what single units of the same size would lose: the cheapest ones, in order of score
        order = np.argsort(task.scores.score)
        spent = np.cumsum(task.scores.cost[order])
        least = task.scores.importance[order][spent <= removed].sum()
        assert task.scores.removed(plan) > (1 + TOLERATED) * least or removed < (1 - TOLERATED) * 0.4 * WIDE.parameters


def test_a_gate_counts_in_the_scores_that_it_gates_and_nats_count_as_they_are():
    task, params = smooth(WIDE, 1, 6.0), HGSPParams(ratio=0.4, epsilon=0)
    _, (gated,) = sized("hgsp", params, task, None)
    _, (nats,) = sized("hgsp", params, task, task.scores)
    assert "Change of removed scores: " in gated
    assert "Change of predicted KL divergence: " in nats
    assert gated.split("scores: ")[1] != nats.split("divergence: ")[1]


def test_scores_below_zero_are_weighed_from_their_least_one_on():
    task = smooth(WIDE, 0, 2.0)
    below = replace(task, scores=task.scores.with_score(task.scores.score - task.scores.score.max()))
    params = GlobalParams(ratio=0.3)
    assert (weighed(below.scores).importance >= 0).all()
    found, _ = sized("global", params, below, None)
    assert chosen(found) in MULTIPLES


@pytest.mark.parametrize("given", [1, 24, 64])
def test_a_number_in_the_recipe_is_taken_as_it_is(given):
    params = GlobalParams(limits={"channel_multiple": given})
    assert sized("global", params, job(WIDE), None) == (params, ())


def test_small_mlps_keep_any_number_of_channels():
    task = job(llama(4, 16, 8, 4, 1023, 32, head_dim=4))
    assert sized("hgsp", HGSPParams(), task, None) == (HGSPParams(), ())
    assert any(kept % 2 for kept in channels(planned("hgsp", HGSPParams(), task)))


def test_a_ratio_that_limits_forbid_is_refused_without_a_word_of_multiples():
    params = GlobalParams(ratio=0.7, limits={"layer_max_rate": 0.5})
    with pytest.raises(PlanError) as caught:
        sized("global", params, job(WIDE), None)
    assert "allocate.with.limits.layer_max_rate: 0.5" in str(caught.value)
    assert "channel_multiple" not in str(caught.value)


class OwnParams(SizeLimits, RatioParams):
    """A plugin's allocator may have the limits anywhere."""

    sizes: SizeLimits = Field(SizeLimits(), description="more of them")


def test_limits_have_a_number_wherever_a_plugin_puts_them():
    found = numbered(OwnParams(sizes=SizeLimits(channel_multiple=5)), 32)
    assert isinstance(found, OwnParams)
    assert (found.channel_multiple, found.sizes.channel_multiple) == (32, 5)


# --- in a run


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The text of a recipe for a random model with 1,024 channels a layer."""
    directory = tmp_path_factory.mktemp("wide")
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.save_pretrained(directory / "model")
    sizes = {"hidden_size": 16, "intermediate_size": 1024, "num_hidden_layers": 3, "vocab_size": len(tokenizer)}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)).save_pretrained(directory / "model")
    return f"""
model: {{path: {directory / "model"}}}
score: {{use: magnitude}}
allocate: {{use: hgsp, with: {{temperature: 0, ratio: 0.3}}}}
reconstruct: {{use: none}}
export: []
output: {directory / "run"}
"""


def test_the_report_and_the_plan_say_which_multiple_was_chosen_and_the_recipe_keeps_auto(recipe, tmp_path):
    report = run(parse_recipe(recipe, "test"), output=tmp_path / "run")
    (note,) = (note for note in report["notes"] if "channel_multiple: auto" in note)
    multiple = int(re.search(r"auto chose (\d+)\.", note)[1])
    assert report["recipe"]["allocate"]["with"]["limits"]["channel_multiple"] == "auto"
    written = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert note in written["notes"]
    assert all(len(layer["mlp"]["kept"]) % multiple == 0 for layer in written["layers"])
    assert note in (tmp_path / "run" / "report.html").read_text()

    (tmp_path / "recipe.yaml").write_text(recipe)
    printed = CliRunner().invoke(app, ["plan", str(tmp_path / "recipe.yaml"), "--quiet"]).output
    assert f"channel_multiple: auto chose {multiple}" in " ".join(printed.split())


def test_all_iterative_steps_have_the_multiple_of_the_full_ratio(recipe):
    notes = []
    for steps in (1, 4):
        plan = forecast(parse_recipe(recipe, "test"), settings={"iterative_steps": steps}).decision.plan
        (note,) = (note for note in plan.notes if "channel_multiple: auto" in note)
        assert all(kept % int(re.search(r"chose (\d+)", note)[1]) == 0 for kept in channels(plan))
        notes.append(note)
    assert notes[0] == notes[1]


@pytest.mark.parametrize("wrong", ["0", "-8", "large", "8.5", "[8]"])
def test_a_multiple_that_is_none_is_refused_by_its_key(recipe, wrong):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe, "test", [f"allocate.with.limits.channel_multiple={wrong}"])
    (line,) = str(caught.value).splitlines()
    assert line.startswith("test: allocate.with.limits.channel_multiple: Input should be 'auto', or ")
