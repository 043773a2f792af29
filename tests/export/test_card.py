"""The model card says what is true of its checkpoint: how it loads, what it lost, under what terms it may be used."""

import json
import shutil

import pytest
import yaml

from hgsp_core.artifacts import Plan
from hgsp_core.checkpoint.read import read_config, tensor_shapes
from hgsp_core.export.card import model_card, original_card
from hgsp_core.model.layout import read_layout
from hgsp_core.plugin import registry
from hgsp_core.runtime.recipe import parse_recipe, resolved
from tests.helpers.checkpoints import PLANS, prune
from tests.helpers.command import ROOT

BEFORE = {"parameters": 1000, "layer_parameters": 800, "perplexity": {"wikitext2": 6.5}}
AFTER = {"parameters": 750, "layer_parameters": 550, "perplexity": {"wikitext2": 7.25}}


def report(model="acme/big-llama"):
    recipe = resolved(
        parse_recipe(
            f"model: {{path: {model}}}\ncalibrate: {{dataset: pydoc}}\nscore: {{use: magnitude}}\n"
            "allocate: {use: hgsp}\noutput: /home/me/secret/out\n",
            "r",
        )
    )
    calibration = {"dataset": "/home/me/secret/text.txt", "samples": 8, "seq_len": 16, "seed": 0, "tokens_sha256": "0"}
    return {
        "recipe": recipe.model_dump(mode="json"), "before": BEFORE, "after": AFTER, "calibration": calibration
    }  # fmt: skip


def card_of(directory, base=None, gguf=True, **kw):
    """(front matter, the text below it)."""
    config = read_config(directory)
    family = config.get("base_model_type", config["model_type"])
    layout = read_layout(registry.architecture(family), config, tensor_shapes(directory))
    text = model_card(directory, config, layout, Plan.keep_all(layout), report(**kw), base, gguf)
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage: [en]\ntags: [chat]\n---\n# Big\nBuy it now!\n"
    )
    return folder


def test_a_model_of_many_sizes_is_said_to_need_its_code_and_a_uniform_one_not_to(tmp_path, base):
    front, text = card_of(prune(tmp_path / "a", "llama", PLANS["sizes differ"]).directory, base)
    assert "trust_remote_code=True" in text
    assert "--trust-remote-code" in text
    assert "vLLM (0.32 or later)" in text
    assert "custom_code" in front["tags"]
    front, text = card_of(prune(tmp_path / "b", "llama", {(i, "mlp"): range(16) for i in range(5)}).directory, base)
    assert "trust" not in text
    assert "It is a stock `llama` model: no code comes with it" in text
    assert "custom_code" not in front["tags"]


def test_what_the_hub_reads_is_there_and_the_licence_is_that_of_the_original(tmp_path, base):
    front, text = card_of(prune(tmp_path / "a", "llama", PLANS["sizes differ"]).directory, base)
    assert front == {
        "base_model": "acme/big-llama",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "language": ["en"],
        "tags": ["pruned", "structured-pruning", "hgsp", "custom_code"],
    }
    assert "That of the original: apache-2.0." in text
    assert "Buy it now" not in text


def test_without_a_card_the_licence_file_is_named_and_without_that_none_is_made_up(tmp_path):
    directory = prune(tmp_path / "a", "llama", PLANS["sizes differ"]).directory
    front, text = card_of(directory, tmp_path)
    assert "license" not in front
    assert "did not say which one that is" in text
    (directory / "LICENSE").write_text("as you like")
    front, text = card_of(directory, tmp_path)
    assert (front["license"], front["license_link"]) == ("other", "LICENSE")
    assert "Carried over from it: LICENSE." in text


def test_the_table_has_the_runs_numbers_and_the_sizes_are_those_of_the_layers(tmp_path, base):
    _, text = card_of(prune(tmp_path / "a", "llama", PLANS["everything"]).directory, base)
    assert "| perplexity, wikitext2 | 6.5 | 7.25 | +11.5% |" in text
    assert "750 parameters, 25.0% fewer (31.2%" in text
    assert "| layers | of the original | `num_attention_heads` | `num_key_value_heads` | `intermediate_size` |" in text
    assert "| 0 | 0 | removed | removed | 20 |" in text
    assert "| 1 | 1 | 4 | 2 | removed |" in text


def test_no_path_of_this_machine_is_told(tmp_path, base):
    directory = prune(tmp_path / "a", "llama", PLANS["sizes differ"]).directory
    front, text = card_of(directory, base, model=str(tmp_path / "somewhere" / "big-llama"))
    assert "base_model" not in front
    assert "# big-llama, pruned" in text
    assert "`text.txt`" in text
    assert str(tmp_path) not in text
    assert "secret" not in text


def test_llama_cpp_is_named_only_where_it_takes_the_model(tmp_path, base):
    directory = prune(tmp_path / "a", "llama", PLANS["sizes differ"]).directory
    assert "llama-cli" in card_of(directory, base)[1]
    assert "llama" not in card_of(directory, base, gguf=False)[1].partition("## Use")[2].replace("big-llama", "")


@pytest.mark.parametrize("text", ["", "# no front matter", "---\n[broken\n---\n", "---\n- a list\n---\n", b"\xff\xfe"])
def test_an_originals_card_that_cannot_be_read_is_none(tmp_path, text):
    (tmp_path / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert original_card(tmp_path) == {}
    assert original_card(tmp_path / "nowhere") == original_card(None) == {}


def test_the_code_in_the_card_runs(tmp_path, base):
    """The python blocks as they stand, with the directory put in."""
    directory = prune(tmp_path / "a", "llama", PLANS["everything"]).directory
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models" / "pydoc-llama" / name, directory)
    _, text = card_of(directory, base)
    scope: dict = {}
    for block in text.split("```python\n")[1:]:
        exec(block.partition("```")[0].replace("THIS_DIRECTORY", str(directory)), scope)
    assert scope["model"].base_model.model.config.model_type == "hgsp"
    assert scope["model"].get_nb_trainable_parameters()[0] > 0
    assert scope["tokenizer"]("text").input_ids
    json.dumps(scope["model"].peft_config["default"].to_dict(), default=str)
