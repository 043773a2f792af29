"""Whole runs on models with experts: the default recipe, scorers of experts alone, and what is said of what stays whole."""

import json
import shutil

import pytest

from hgsp_core.artifacts.errors import PlanError
from hgsp_core.checkpoint.load import load_model
from hgsp_core.checkpoint.read import tensor_shapes
from hgsp_core.export.verification import verify
from hgsp_core.pipeline import plan, run
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.runtime.store import Store
from tests.helpers.architectures import tiny_model
from tests.helpers.command import ROOT

DEMO = ROOT / "models" / "pydoc-llama"
TEXT = """
model: {path: MODEL}
calibrate: {dataset: pydoc, samples: 8, seq_len: 32}
evaluate: [{use: perplexity, with: {datasets: [pydoc], max_windows: 4}}]
output: never
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Family -> directory, as transformers saves it, with the tokenizer of the demo model."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("mixtral", "qwen3_moe"):
        tiny_model(kind, vocab_size=1024, max_position_embeddings=256).save_pretrained(folder / kind)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(DEMO / name, folder / kind / name)
    return folder


def recipe(models, kind, *settings):
    """Ratios are of the layers: the vocabulary is most of these models."""
    return parse_recipe(TEXT.replace("MODEL", str(models / kind)), "r", ["allocate.with.of=layers", *settings])


def sizes(found, axis="experts"):
    return [len(layer[axis].kept) for layer in found.layers if axis in layer]


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_the_default_recipe_prunes_experts_attention_and_mlps_in_one_currency(models, kind, tmp_path):
    report = run(
        recipe(models, kind, "allocate.with.ratio=0.25"), None, Store(tmp_path / "store"), output=tmp_path / "out"
    )
    assert report["after"]["layer_parameters"] == pytest.approx(0.75 * report["before"]["layer_parameters"], rel=0.05)
    for side in ("before", "after"):
        assert report[side]["active_parameters"] < report[side]["parameters"]
    assert report["predicted_kl"] > 0
    assert not any("no score" in note for note in report["notes"])
    assert all(finding.sound for finding in verify(tmp_path / "out", LogMonitor()))
    files = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert any(len(layer["experts"]["kept"]) < 6 for layer in files["layers"] if "experts" in layer)
    assert "experts" in (tmp_path / "out" / "report.html").read_text()


def test_equal_counts_of_experts_give_a_stock_checkpoint_in_the_form_of_the_hub(models, tmp_path):
    settings = ["score.use=reap", "allocate.use=uniform", "allocate.with={ratio: 0.2, of: layers, uniform: true}"]
    report = run(
        recipe(models, "qwen3_moe", *settings, "model.weights=streamed"),
        None,
        Store(tmp_path / "store"),
        output=tmp_path / "out",
    )
    model, config = load_model(tmp_path / "out" / "model")
    assert (type(model).__name__, config["num_local_experts"]) == ("Qwen3MoeForCausalLM", 4)
    assert "model.layers.0.mlp.experts.3.up_proj.weight" in tensor_shapes(tmp_path / "out" / "model")
    assert "4 layers keep" not in str(report["notes"])
    assert "3 layers keep all of their attention: 'reap' has no score for attention." in report["notes"]
    assert "1 layer keeps all of its mlp: 'reap' has no score for mlp." in report["notes"]
    assert (tmp_path / "out" / "report.html").read_text().count("has no score for") >= 2


@pytest.mark.parametrize("allocator", ["global", "uniform", "layerwise"])
@pytest.mark.parametrize("scorer", ["reap", "frequency"])
def test_with_scorers_of_experts_only_experts_go_and_as_many_stay_as_a_token_goes_to(
    models, scorer, allocator, tmp_path
):
    settings = [f"score.use={scorer}", f"allocate.use={allocator}", "allocate.with.ratio=0.2"]
    found = plan(recipe(models, "qwen3_moe", *settings), None, Store(tmp_path)).decision.plan
    assert sizes(found, "attention") == [2] * 3
    assert sizes(found, "mlp") == [48]
    assert min(sizes(found)) < 6
    assert not {1} & set(sizes(found))


def test_scores_from_the_store_are_those_of_their_layers(models, tmp_path):
    """The first layer has no experts: nothing is kept for it."""
    tiny_model("qwen3_moe", vocab_size=1024, mlp_only_layers=[0]).save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, tmp_path / "model" / name)
    settings = ["score.use=reap", "allocate.use=global", "allocate.with.ratio=0.2"]
    first, again = (
        plan(recipe(tmp_path, "model", *settings), None, Store(tmp_path / "store")).decision for _ in range(2)
    )
    assert again.reused
    assert first.plan == again.plan
    assert (first.scores.score == again.scores.score).all()


def test_scorers_that_need_a_writer_leave_experts_whole_and_the_plan_says_so(models, tmp_path):
    settings = ["score.use=wanda", "allocate.use=hgsp", "allocate.with.ratio=0.05"]
    found = plan(recipe(models, "mixtral", *settings), None, Store(tmp_path)).decision.plan
    assert sizes(found) == [6, 6, 6]
    assert "3 layers keep all of their experts: 'wanda' has no score for experts." in found.notes
    with pytest.raises(PlanError, match=r"with these limits.*no scores for experts"):
        plan(recipe(models, "mixtral", *settings, "allocate.with.ratio=0.5"), None, Store(tmp_path))


def test_iterative_steps_never_give_an_expert_back(models, tmp_path):
    for scorer in ("curvature", "reap", "taylor"):
        settings = [f"score.use={scorer}", "allocate.with.ratio=0.4", "iterative_steps=3"]
        settings += ["allocate.use=uniform"] if scorer == "reap" else []
        found = plan(recipe(models, "mixtral", *settings), None, Store(tmp_path)).decision.plan
        assert min(sizes(found)) < 6


def test_the_prices_of_another_order_keep_blocks_that_it_says_nothing_of(models, tmp_path):
    for order in ("reap", "wanda"):
        settings = ["score.use=curvature", f"score.with.order={order}", "allocate.with.ratio=0.3"]
        found = plan(recipe(models, "qwen3_moe", *settings), None, Store(tmp_path)).decision
        assert found.scores.scored(found.source.layout).all()


def test_a_scorer_of_experts_is_refused_for_a_model_without_any_before_anything_is_measured(tmp_path):
    text = TEXT.replace("MODEL", str(DEMO))
    with pytest.raises(PlanError, match="'reap' scores experts, and the model \\('llama'\\) has none"):
        plan(parse_recipe(text, "r", ["score.use=reap"]), None, Store(tmp_path))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_llama_cpp_is_no_target_for_experts(models, tmp_path):
    from hgsp_core.export.gguf.errors import GgufError

    with pytest.raises(GgufError, match=r"no architecture of llama\.cpp is known to compute the same as 'mixtral'"):
        plan(recipe(models, "mixtral", "export=[{use: gguf}]"), None, Store(tmp_path))
