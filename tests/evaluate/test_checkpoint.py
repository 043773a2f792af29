"""`evaluate_checkpoint`: any model directory, alone or beside the model it came from; and evaluators in a run."""

import gc
import shutil
import weakref

import pytest

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.load import load_model
from hgsp_core.evaluate.checkpoint import evaluate_checkpoint
from hgsp_core.evaluate.errors import EvaluationError
from hgsp_core.evaluate.harness import LmEval
from hgsp_core.pipeline import run
from hgsp_core.report.tables import headline
from hgsp_core.runtime.errors import OutputError
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import Use, parse_recipe
from hgsp_core.runtime.source import model_directory
from hgsp_core.runtime.store import Store
from hgsp_core.sweeps.cells import Cell
from hgsp_core.sweeps.shared import check
from tests.helpers.command import MODEL
from tests.helpers.evaluations import prune_demo_model

PERPLEXITY = Use.model_validate(
    {"use": "perplexity", "with": {"datasets": ["pydoc"], "max_windows": 12, "seq_len": 64}}
)
EFFICIENCY = Use.model_validate(
    {"use": "efficiency", "with": {"batch_sizes": [1], "prompt_tokens": 8, "new_tokens": 2, "rounds": 3, "warmup": 1}}
)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    return prune_demo_model(tmp_path_factory.mktemp("model") / "pruned")


def evaluated(model, *uses, **options):
    return evaluate_checkpoint(model, uses, LogMonitor(), **options)


@pytest.fixture
def small_memory(monkeypatch):
    """A machine where nothing fits."""
    monkeypatch.setattr("hgsp_core.engine.memory.free_bytes", lambda device: 2**20)


def test_a_model_that_does_not_fit_is_streamed_with_the_same_result(pruned, small_memory, monkeypatch):
    streamed = evaluated(pruned, PERPLEXITY)["after"]
    monkeypatch.undo()
    whole = evaluated(pruned, PERPLEXITY)["after"]
    assert streamed["perplexity"]["pydoc"] == pytest.approx(whole["perplexity"]["pydoc"], rel=1e-5)
    assert {k: v for k, v in streamed.items() if k != "perplexity"} == {
        k: v for k, v in whole.items() if k != "perplexity"
    }


@pytest.mark.parametrize("name", ["efficiency", "lm_eval"])
def test_what_needs_a_whole_model_says_so_where_it_is_streamed(pruned, small_memory, name, monkeypatch):
    monkeypatch.setattr(
        LmEval, "__init__", lambda self, params: setattr(self, "params", params)
    )  # its tasks are not here
    with pytest.raises(EvaluationError, match=f"'{name}' needs the model in memory"):
        evaluated(pruned, Use(use=name))


def test_models_that_do_not_fit_together_are_measured_one_after_the_other(pruned, monkeypatch):
    models = weakref.WeakSet()

    def load(*arguments):
        model, config = load_model(*arguments)
        models.add(model)
        return model, config

    def free(device):
        """Of 16 MB, what the models that are alive leave: enough for the original's 9.5 only while the pruned one is gone."""
        gc.collect()
        return 16_000_000 - sum(4 * model.num_parameters() for model in models)

    monkeypatch.setattr("hgsp_core.engine.memory.free_bytes", free)
    monkeypatch.setattr("hgsp_core.checkpoint.load.load_model", load)
    result = evaluated(pruned, EFFICIENCY, dense=MODEL)
    for side in ("before", "after"):
        assert result[side]["efficiency_protocol"]["in_turns"] is False
        assert result[side]["decode_seconds_per_token"]["batch 1"] > 0
    assert result["ratio"]["kv_cache_bytes"]["batch 1"] < 1


def test_a_model_of_a_family_without_a_plugin_is_evaluated(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=1024, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, tmp_path)
    found = evaluated(tmp_path, PERPLEXITY, EFFICIENCY)["after"]
    assert found["parameters"] == load_model(tmp_path)[0].num_parameters()
    assert 900 < found["perplexity"]["pydoc"] < 1200  # untrained: as good as guessing among 1024 tokens
    assert found["decode_tokens_per_second"]["batch 1"] > 0


def test_a_result_is_never_overwritten(tmp_path):
    output = tmp_path / "result.json"
    output.write_text("mine")
    with pytest.raises(OutputError, match="exists and is not overwritten"):
        evaluated(MODEL, PERPLEXITY, output=output)
    assert output.read_text() == "mine"


def test_a_model_that_is_not_there_is_one_error(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        evaluated(tmp_path / "nowhere", PERPLEXITY)


def test_the_model_of_a_run_is_found_whatever_its_folder_is_called(tmp_path):
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(CheckpointError, match="contains no model to evaluate"):
        model_directory(tmp_path)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text((MODEL / "config.json").read_text())
        if name == "first":
            assert model_directory(tmp_path) == tmp_path / "first"
    with pytest.raises(CheckpointError, match="contains several models: first, second"):
        model_directory(tmp_path)
    (tmp_path / "second").rename(tmp_path / "model")
    assert model_directory(tmp_path) == tmp_path / "model"


RECIPE = """\
model: {{path: {model}, weights: {weights}}}
calibrate: {{dataset: pydoc, samples: 4, seq_len: 32}}
score: {{use: magnitude}}
allocate: {{use: hgsp, with: {{ratio: 0.2, temperature: 0}}}}
evaluate:
  - {{use: perplexity, with: {{datasets: [pydoc], max_windows: 12, seq_len: 64}}}}
  - {{use: efficiency, with: {{batch_sizes: [1], prompt_tokens: 8, new_tokens: 2, rounds: 3, warmup: 1}}}}
output: {output}
"""


def recipe_of(folder, weights):
    return parse_recipe(RECIPE.format(model=MODEL, weights=weights, output=folder / "out"), "recipe.yaml")


def run_recipe(folder, weights):
    return run(recipe_of(folder, weights), LogMonitor(), Store(folder / "store"))


def test_a_run_measures_both_models_in_turns_and_its_directory_can_be_evaluated(tmp_path):
    report = run_recipe(tmp_path, "resident")
    for side in ("before", "after"):
        assert report[side]["efficiency_protocol"]["in_turns"] is True
        assert report[side]["padded_macs_per_token"]["prompt of 8"] >= report[side]["macs_per_token"]["prompt of 8"] > 0
    shown = {row.measure for row in headline(report)}
    assert {"prefill, batch 1", "perplexity, pydoc"} <= shown
    assert not any("protocol" in measure for measure in shown)
    again = evaluated(tmp_path / "out", PERPLEXITY, dense=MODEL)
    for side in ("before", "after"):
        assert again[side]["parameters"] == report[side]["parameters"]
        assert again[side]["bytes"] == report[side]["bytes"]
        assert again[side]["perplexity"]["pydoc"] == pytest.approx(report[side]["perplexity"]["pydoc"], rel=1e-5)
        assert again[side]["perplexity_protocol"] == report[side]["perplexity_protocol"]


@pytest.mark.parametrize(
    ("weights", "stage"), [("streamed", "hgsp_core.allocate.run.calibrate"), ("auto", "hgsp_core.runtime.cut.cut")]
)
def test_a_run_that_streams_refuses_what_needs_a_whole_model(tmp_path, small_memory, weights, stage, monkeypatch):
    monkeypatch.setattr(stage, lambda *arguments: pytest.fail("it went on"))
    with pytest.raises(EvaluationError, match="'efficiency' needs the model in memory"):
        run_recipe(tmp_path, weights)
    assert not (tmp_path / "out").exists()


def test_a_grid_that_streams_refuses_what_needs_a_whole_model_before_it_starts(tmp_path):
    cell = Cell("one", recipe_of(tmp_path, "streamed"))
    with pytest.raises(EvaluationError, match="'efficiency' needs the model in memory"):
        check([cell])
