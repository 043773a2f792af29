"""Whole runs on tiny models of families whose layers are not Llama's: fused linears, norms behind blocks, multipliers."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

from hgsp_core.pipeline import forecast, run
from hgsp_core.plugin import registry
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.runtime.store import Store
from tests.helpers.architectures import tiny_model
from tests.helpers.command import MODEL

KINDS = ("gemma2-window", "gemma3-window", "phi3", "olmo2", "olmo3-window", "granite", "smollm3", "glm4")
#: with these sizes any number of heads divides the hidden size, which the stock classes of Gemma ask for
SIZES = dict(
    vocab_size=1024,
    hidden_size=48,
    intermediate_size=96,
    num_attention_heads=8,
    num_key_value_heads=4,
    num_hidden_layers=4,
)
TEXT = """
model: {path: %s}
calibrate: {dataset: pydoc, samples: 8, seq_len: 24}
allocate: {with: {ratio: 0.25, of: layers}}
evaluate: [{use: perplexity, with: {datasets: [pydoc], seq_len: 24, max_windows: 8}}]
"""


def quick(*kinds):
    """Every family, these on every day."""
    params = [pytest.param(kind, marks=() if kind in kinds else pytest.mark.slow) for kind in KINDS]
    return pytest.mark.parametrize("model", params, indirect=True, scope="module")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    """A directory with a model of the family and a tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    return save(tiny_model(request.param, **SIZES), folder / "model")


def save(model, directory):
    model.save_pretrained(directory)
    PreTrainedTokenizerFast.from_pretrained(MODEL).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def store(model):
    return Store(model.parent / "store")


def recipe(model, output, *settings):
    return parse_recipe(TEXT % model, "r", [f"output={output}", *settings])


def share(given):
    """Of the parameters of layers, the part that a plan removes."""
    layout = given.decision.source.layout
    return given.decision.plan.removed(layout) / layout.layer_parameters


def files(directory):
    """What must not differ between runs that mean the same."""
    model = [p for p in sorted((directory / "model").iterdir()) if p.name not in ("README.md", "hgsp.json")]
    return {p.name: p.read_bytes() for p in [directory / "plan.json", *model]}


@pytest.fixture(scope="module")
def pruned(model, store):
    """The report of a run of the default recipe, whose output is beside the model."""
    return run(recipe(model, model.parent / "pruned", "model.weights=resident"), LogMonitor(), store)


def test_the_default_recipe_meets_its_ratio_and_its_checkpoint_is_verified(model, pruned, said):
    before, after = (pruned[side]["layer_parameters"] for side in ("before", "after"))
    assert 0.24 < 1 - after / before <= 0.25
    code, out, err = said("verify", model.parent / "pruned")
    assert code == 0, out + err
    assert out.count("ok ") == 4
    code, out, err = said("eval", model.parent / "pruned", "--dense", model, "--dataset", "pydoc", "--max_samples", 4)
    assert code == 0, out + err
    assert "perplexity, pydoc" in out


def test_the_card_names_the_linears_for_an_adapter(model, pruned):
    folder = model.parent / "pruned" / "model"
    card, tensors = (folder / "README.md").read_text(), load_file(folder / "model.safetensors")
    linears = {name.split(".")[-2] for name, tensor in tensors.items() if ".layers." in name and tensor.dim() == 2}
    assert f"target_modules={sorted(linears)})" in card


def test_streamed_weights_give_what_resident_ones_give(model, pruned, tmp_path):
    settings = ("model.weights=streamed", "memory=disk", "export=[]")
    streamed = run(recipe(model, tmp_path / "streamed", *settings), LogMonitor(), Store(tmp_path / "store"))
    assert (tmp_path / "streamed" / "plan.json").read_bytes() == (model.parent / "pruned" / "plan.json").read_bytes()
    for side in ("before", "after"):
        a, b = (report[side]["perplexity"]["pydoc"] for report in (pruned, streamed))
        assert a == pytest.approx(b, rel=1e-6)


@pytest.mark.slow
def test_streamed_weights_give_the_same_files(model, pruned, tmp_path):
    settings = ("model.weights=streamed", "memory=disk")
    run(recipe(model, tmp_path / "streamed", *settings), LogMonitor(), Store(tmp_path / "store"))
    assert files(tmp_path / "streamed") == files(model.parent / "pruned")


OF_EXPERTS = ("reap", "frequency")  # which these families lack
SCORERS = [entry.name for entry in registry.installed().of_kind("scorer") if entry.name not in OF_EXPERTS]
VARIANTS = {name: {"use": name} for name in SCORERS}
VARIANTS |= {f"llm_pruner {i}": {"use": "llm_pruner", "with": {"importance": i}} for i in ("mixed", "vector")}


def test_every_scorer_gives_a_plan(model, store):
    removed = {}
    for name, score in VARIANTS.items():
        given = forecast(recipe(model, "nowhere", f"score={json.dumps(score)}"), LogMonitor(), store)
        removed[name] = share(given)
    assert all(0.24 < part <= 0.25 for part in removed.values()), removed


ALLOCATIONS = {
    "torch_pruning": "{use: torch_pruning, with: {ratio: 0.2, of: layers}}",
    "slimgpt": "{use: slimgpt, with: {ratio: 0.2, of: layers}}",
    "hgsp": "{use: hgsp, with: {ratio: 0.2, of: layers}}",
    "layerwise": "{use: layerwise, with: {ratio: 0.2, of: layers}}",
    "query heads": "{use: global, with: {ratio: 0.2, of: layers, query_heads: true}}",
    "depth": "{use: depth, with: {ratio: 0.5, of: layers}}",
}


def test_every_allocator_gives_a_plan(model, store):
    for name, allocate in ALLOCATIONS.items():
        settings = ("score.use=taylor", f"allocate={allocate}") if name != "depth" else (f"allocate={allocate}",)
        given = forecast(recipe(model, "nowhere", *settings), LogMonitor(), store)
        assert share(given) > 0.15, name


TRAINING = "with: {dataset: pydoc, samples: 8, batch_size: 4, micro_batch_size: 4}"


@quick("gemma3-window")
def test_a_model_is_repaired_damped_and_trained_by_gains(model, store, tmp_path):
    trained(model, store, tmp_path, "reconstruct.with.damp=true", f"recover={{use: gains, {TRAINING}}}")


@quick("phi3")
def test_a_model_is_repaired_by_slimgpt_and_trained_by_lora(model, store, tmp_path):
    trained(model, store, tmp_path, "reconstruct={use: slimgpt}", f"recover={{use: lora, {TRAINING}}}")


@quick("glm4")
def test_a_model_is_repaired_by_biases_and_trained_whole(model, store, tmp_path):
    trained(model, store, tmp_path, "reconstruct={use: bias}", f"recover={{use: full, {TRAINING}}}")


def trained(model, store, tmp_path, *settings):
    report = run(recipe(model, tmp_path / "out", *settings, "export=[]"), LogMonitor(), store)
    assert report["after"]["perplexity"]["pydoc"] < 1.2 * report["before"]["perplexity"]["pydoc"]


@quick("gemma3-window", "olmo2")
def test_a_checkpoint_of_equal_layers_is_pruned_again_in_steps(model, store, tmp_path):
    uniform = "allocate={use: uniform, with: {ratio: 0.25, of: layers, uniform: true}}"
    run(recipe(model, tmp_path / "once", uniform, "score.use=magnitude"), LogMonitor(), store)
    config = json.loads((tmp_path / "once" / "model" / "config.json").read_text())
    assert config["model_type"] == json.loads((model / "config.json").read_text())["model_type"]
    twice = forecast(recipe(tmp_path / "once" / "model", "nowhere", "iterative_steps=2"), LogMonitor(), store)
    assert 0.24 < share(twice) <= 0.25


FUSED = {"self_attn.qkv": ("q", "k", "v"), "mlp.gate_up": ("gate", "up")}


def fused(tensors):
    """A Llama's tensors by the names and in the shapes that they have in a Phi-3."""
    tensors = dict(tensors)
    for linear, parts in FUSED.items():
        block = linear.partition(".")[0]
        for name in [name for name in tensors if name.endswith(f"{block}.{parts[0]}_proj.weight")]:
            layer = name.partition(f".{block}.")[0]
            rows = [tensors.pop(f"{layer}.{block}.{part}_proj.weight") for part in parts]
            tensors[f"{layer}.{linear}_proj.weight"] = torch.cat(rows)
    return tensors


def test_a_model_with_fused_linears_is_pruned_as_the_same_one_without(tmp_path):
    llama = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    phi = Phi3ForCausalLM(Phi3Config(**llama.config.to_dict() | {"model_type": "phi3"}))
    phi.load_state_dict(fused(llama.state_dict()))
    phi.save_pretrained(tmp_path / "phi")
    reports = {}
    for name, model in (("llama", MODEL), ("phi3", save(phi, tmp_path / "phi"))):
        reports[name] = run(recipe(model, tmp_path / name), LogMonitor(), Store(tmp_path / "store"))
    plans = [json.loads((tmp_path / name / "plan.json").read_text())["layers"] for name in reports]
    assert plans[0] == plans[1]
    a, b = (load_file(tmp_path / name / "model" / "model.safetensors") for name in reports)
    a = fused(a)
    assert a.keys() == b.keys()
    for name, tensor in b.items():
        torch.testing.assert_close(tensor, a[name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
