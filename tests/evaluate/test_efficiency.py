"""Efficiency: dense and pruned timed in turns; everything that can be counted equals an independent count."""

import statistics

import pytest
import torch

from hgsp_core.artifacts import Plan
from hgsp_core.checkpoint.load import load_model
from hgsp_core.evaluate.checkpoint import evaluate_checkpoint
from hgsp_core.evaluate.contract import EvaluateJob
from hgsp_core.evaluate.efficiency import Efficiency, one_round, working_bytes
from hgsp_core.evaluate.efficiency_params import EfficiencyParams
from hgsp_core.report.cost import costs
from hgsp_core.report.tables import evaluation
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import ModelPart, Use
from hgsp_core.runtime.source import open_model
from tests.helpers.architectures import layout_of, tiny_model
from tests.helpers.command import MODEL
from tests.helpers.evaluations import prune_demo_model

PROMPT, NEW, BATCHES = 24, 3, (1, 4)
QUICK = {"prompt_tokens": PROMPT, "new_tokens": NEW, "rounds": 5, "warmup": 1}
TIMES = ("prefill_seconds", "decode_seconds_per_token")


def job(model):
    return EvaluateJob(model, None, lambda *_: 0.0, seed=0)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model, and itself with layers of different sizes, one without attention and one without MLP."""
    return load_model(MODEL)[0], load_model(prune_demo_model(tmp_path_factory.mktemp("model") / "pruned"))[0]


@pytest.fixture(scope="module")
def pair(models):
    return Efficiency(EfficiencyParams(**QUICK)).compare(*map(job, models))


def test_latency_and_throughput_are_two_views_of_one_median(pair):
    for found in pair:
        for batch in BATCHES:
            name = f"batch {batch}"
            prefill, decode = (found[timed][name] for timed in TIMES)
            assert prefill > 0
            assert decode > 0
            assert found["prefill_tokens_per_second"][name] == pytest.approx(batch * PROMPT / prefill)
            assert found["decode_tokens_per_second"][name] == pytest.approx(batch / decode)
            for timed in TIMES:
                spread = found["efficiency_spread"][name][timed]
                assert list(spread) == ["min", "q1", "median", "q3", "max"]
                assert sorted(spread.values()) == list(spread.values())
                assert spread["median"] == pytest.approx(found[timed][name])


def test_two_models_are_timed_in_turns(models, pair, monkeypatch):
    turns = []

    def spied(model, *arguments):
        turns.append(models.index(model))
        return one_round(model, *arguments)

    monkeypatch.setattr("hgsp_core.evaluate.efficiency.one_round", spied)
    Efficiency(EfficiencyParams(**{**QUICK, "batch_sizes": (1,)})).compare(*map(job, models))
    assert turns[:12] == [0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0]
    for batch in BATCHES:
        spread = pair[1]["efficiency_spread"][f"batch {batch}"]
        assert 0 < spread["ratio of prefill_seconds"]["q1"] <= spread["ratio of prefill_seconds"]["q3"]
    assert pair[0]["efficiency_protocol"] == pair[1]["efficiency_protocol"]
    assert pair[0]["efficiency_protocol"]["in_turns"] is True


def test_a_model_of_four_times_the_layers_is_timed_as_slower():
    from transformers import LlamaConfig, LlamaForCausalLM

    def model(layers):
        config = LlamaConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4, vocab_size=64
        )
        return LlamaForCausalLM(config).eval()

    few, many = Efficiency(EfficiencyParams(**QUICK)).compare(job(model(2)), job(model(8)))
    for timed in TIMES:
        assert many[timed]["batch 1"] > 1.5 * few[timed]["batch 1"]


def test_the_cache_is_as_large_as_transformers_own(models, pair):
    for model, found in zip(models, pair, strict=True):
        for batch in BATCHES:
            prompt = torch.ones(batch, PROMPT + NEW, dtype=torch.long)
            layers = model(prompt, use_cache=True).past_key_values.layers
            held = [t for layer in layers for t in (layer.keys, layer.values) if t is not None]
            assert found["kv_cache_bytes"][f"batch {batch}"] == sum(t.numel() * t.element_size() for t in held) > 0


def test_macs_by_torchs_counter_are_those_computed_from_shapes(pair):
    layout = open_model(ModelPart(path=str(MODEL))).layout
    model, _ = load_model(MODEL)
    model.set_attn_implementation("sdpa")
    found = Efficiency(EfficiencyParams(**{**QUICK, "batch_sizes": (1,)}))(job(model))
    expected = costs(layout, Plan.keep_all(layout), PROMPT, 4)
    assert found["macs_per_token"] == {f"prompt of {PROMPT}": expected["macs"]}
    assert model.config._attn_implementation == "sdpa"
    assert pair[1]["macs_per_token"][f"prompt of {PROMPT}"] < pair[0]["macs_per_token"][f"prompt of {PROMPT}"]


def test_macs_of_experts_are_counted_however_they_are_run():
    model = tiny_model("mixtral")
    layout = layout_of(model)
    found = Efficiency(EfficiencyParams(**{**QUICK, "batch_sizes": (1,)}))(job(model))
    assert found["macs_per_token"] == {f"prompt of {PROMPT}": costs(layout, Plan.keep_all(layout), PROMPT, 4)["macs"]}
    assert model.config._experts_implementation == "grouped_mm"


def test_padded_macs_are_those_of_a_model_whose_sizes_are_whole_tiles():
    from transformers import LlamaConfig, LlamaForCausalLM

    def measured(channels, vocabulary):
        config = LlamaConfig(
            hidden_size=128,
            intermediate_size=channels,
            num_hidden_layers=2,
            num_attention_heads=2,
            vocab_size=vocabulary,
        )
        found = Efficiency(EfficiencyParams(**{**QUICK, "batch_sizes": (1,)}))(job(LlamaForCausalLM(config).eval()))
        return found["macs_per_token"], found["padded_macs_per_token"]

    plain, padded = measured(1003, 100)
    whole, same = measured(1024, 128)
    assert padded == same == whole != plain


def test_peak_memory_counts_every_tensor_that_a_round_holds_at_a_time(models):
    class Hungry(torch.nn.Module):
        """Takes 8 MB, gives them back, then 6 MB: 8 at a time."""

        device = torch.device("cpu")

        def forward(self, input_ids, past_key_values=None, **kwargs):
            torch.ones(2_000_000)
            torch.ones(1_500_000)
            logits = torch.zeros(len(input_ids), 1, 7)
            return type("Output", (), {"logits": logits, "past_key_values": type("Cache", (), {"layers": []})})

    assert 8_000_000 <= working_bytes(Hungry(), torch.ones(1, 4, dtype=torch.long), 2) < 8_100_000


def test_peak_memory_is_at_least_weights_and_cache(models, pair):
    for model, found in zip(models, pair, strict=True):
        for batch in BATCHES:
            least = sum(p.nbytes for p in model.parameters()) + found["kv_cache_bytes"][f"batch {batch}"]
            assert least < found["peak_memory_bytes"][f"batch {batch}"] < 3 * least


def test_a_checkpoint_and_the_model_it_came_from_are_compared_ratio_first(tmp_path):
    pruned = prune_demo_model(tmp_path / "pruned")
    use = Use.model_validate({"use": "efficiency", "with": {**QUICK, "batch_sizes": [1]}})
    output = tmp_path / "sub" / "result.json"
    result = evaluate_checkpoint(pruned, [use], LogMonitor(), dense=MODEL, output=output)
    assert list(result)[:3] == ["ratio", "before", "after"]
    models = [load_model(directory)[0] for directory in (MODEL, pruned)]
    for side, model, directory in zip(("before", "after"), models, (MODEL, pruned), strict=True):
        assert result[side]["parameters"] == sum(p.numel() for p in model.parameters())
        assert result[side]["bytes"] == (directory / "model.safetensors").stat().st_size
    assert result["ratio"]["parameters"] == models[1].num_parameters() / models[0].num_parameters()
    medians = [result[side]["prefill_seconds"]["batch 1"] for side in ("before", "after")]
    assert result["ratio"]["prefill_seconds"]["batch 1"] == medians[1] / medians[0]
    assert statistics.median(medians) > 0
    assert output.is_file()
    header, rows = evaluation(result)
    assert header == ("", "ratio", "original", "model")
    assert {"parameters", "prefill, batch 1", "decode per token, batch 1", "peak memory, batch 1"} <= {
        r[0] for r in rows
    }
