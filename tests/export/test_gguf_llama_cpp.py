"""llama.cpp computes what transformers computes: logits at once and token by token, token ids, a greedy text.

`make test-all` installs llama-cpp-python (it is built there, which takes some minutes) and sets HGSP_TEST_ALL, so that
nothing here is skipped.
"""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hgsp_core.checkpoint.load import load_config, load_model, load_tokenizer
from hgsp_core.checkpoint.shards import Shards
from hgsp_core.export.gguf.check import run_llama_cpp
from hgsp_core.export.gguf.network import network
from hgsp_core.export.gguf.vocabulary import texts, vocabulary
from hgsp_core.export.gguf.write import write_gguf
from hgsp_core.runtime.source import checkpoint_layout
from tests.helpers.architectures import CONFIGS
from tests.helpers.checkpoints import PLANS, logits, tokens
from tests.helpers.command import MODEL, ROOT, hgsp
from tests.helpers.gguf_models import UNIFORM, write
from tests.helpers.tokenizers_of import KINDS, sentencepiece

if find_spec("llama_cpp") is None and "HGSP_TEST_ALL" not in os.environ:
    pytest.skip("llama-cpp-python is not installed; make test-all installs it", allow_module_level=True)

pytestmark = pytest.mark.slow

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
TIED = {"tie_word_embeddings": True}
REMOVALS = {**PLANS, **{f"uniform {name}": kept for name, kept in UNIFORM.items()}}
CASES = [(kind, name, {}) for kind in ("llama", "llama-tied", "llama-biases", "mistral", "qwen2") for name in REMOVALS]
CASES += [("qwen3", name, TIED) for name in REMOVALS]
CASES += [("qwen3", name, {}) for name in REMOVALS if name.startswith("uniform")]
SOME = ("everything", "uniform heads")
CASES += [("llama", name, {"rope_parameters": rope}) for name in SOME for rope in (LLAMA3, LINEAR)]
CASES += [("qwen3", name, {**TIED, "rope_parameters": LINEAR}) for name in SOME]
#: one of two query heads of each group stays: in some layers, and in all
FEWER = {"heads": {(i, "attention"): [[0], [1], [1], [0]] for i in (1, 3)}}
FEWER_EVERYWHERE = {"heads": {(i, "attention"): [[0], [1], [1], [0]] for i in range(5)}}
CASES += [(kind, "sizes differ", FEWER) for kind in ("llama", "qwen2")] + [("qwen3", "sizes differ", {**TIED, **FEWER})]
CASES += [(kind, "uniform channels", FEWER_EVERYWHERE) for kind in ("llama", "mistral", "qwen2", "qwen3")]
CASES += [("llama", "sizes differ", {"num_key_value_heads": 8}), ("llama", "everything", {"head_dim": 8})]


def llama(path, context=64):
    """llama.cpp with everything in float32, as a user of llama-cpp-python would load it."""
    from llama_cpp import Llama

    return Llama(
        str(path), n_ctx=context, n_batch=context, logits_all=True, type_k=0, type_v=0, flash_attn=False, verbose=False
    )


@pytest.mark.parametrize(
    ("kind", "removal", "config"), CASES, ids=lambda part: part if isinstance(part, str) else "-".join(part)
)
def test_logits_are_transformers_own_at_once_and_token_by_token(tmp_path, kind, removal, config):
    written = write(tmp_path, kind, REMOVALS[removal], **config)
    ids = tokens(1, 40)
    model, _ = load_model(written.pruned.directory)
    reference = logits(model, ids)[0].numpy()
    theirs = llama(written.path)
    found = {}
    theirs.eval(ids[0].tolist())
    found["at once"] = theirs.scores[:40].copy()
    theirs.reset()
    for token in ids[0].tolist():
        theirs.eval([token])
    found["token by token"] = theirs.scores[:40].copy()
    for how, values in found.items():
        assert np.abs(values - reference).max() <= 1e-3, how
        assert (values.argmax(1) == reference.argmax(1)).all(), how

    theirs.reset()
    generated = ids[0, :6].tolist()
    for _ in range(12):
        theirs.eval(generated[theirs.n_tokens :])
        generated.append(int(theirs.scores[theirs.n_tokens - 1].argmax()))
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert generated == model.generate(ids[:, :6], **settings)[0].tolist()


@pytest.mark.parametrize(("number_type", "most"), [("f16", 0.01), ("bf16", 0.05), ("q8_0", 0.2)])
@pytest.mark.parametrize(
    ("kind", "removal"), [("llama", "everything"), ("qwen2", "uniform channels"), ("qwen3", "everything")]
)
def test_other_number_types_are_near(tmp_path, kind, removal, number_type, most):
    written = write(tmp_path, kind, REMOVALS[removal], number_type, **(TIED if kind == "qwen3" else {}))
    model, _ = load_model(written.pruned.directory)
    ids = tokens(2, 16)
    reference = logits(model, ids).numpy()
    found = run_llama_cpp(written.path, ids.numpy(), []).logits
    assert np.sqrt(np.mean((found - reference) ** 2)) <= most * reference.std()


def test_within_a_sliding_window_logits_are_equal_too(tmp_path):
    written = write(tmp_path, "mistral-window", PLANS["sizes differ"])
    model, _ = load_model(written.pruned.directory)
    ids = tokens(2, 5)
    assert np.abs(run_llama_cpp(written.path, ids.numpy(), []).logits - logits(model, ids).numpy()).max() <= 1e-3


def _vocabulary_file(tmp_path, tokenizer):
    """(GGUF file of a model of one layer with this tokenizer, what it says of the tokenizer)."""
    config = CONFIGS["llama"](num_hidden_layers=1, vocab_size=len(tokenizer) + 5)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    words = vocabulary(tokenizer, config.vocab_size)
    held = network(checkpoint_layout(tmp_path / "m"), load_config(tmp_path / "m"))
    write_gguf(tmp_path / "m.gguf", Shards(tmp_path / "m"), held, words, "f16", lambda done, total: None)
    return tmp_path / "m.gguf", words


@pytest.mark.parametrize("kind", [*KINDS, "metaspace"])
def test_token_ids_are_the_tokenizers_own(tmp_path, kind):
    tokenizer = sentencepiece(metaspace=True) if kind == "metaspace" else KINDS[kind]()
    path, words = _vocabulary_file(tmp_path, tokenizer)
    asked = texts(words)
    answer = run_llama_cpp(path, np.zeros((1, 2), int), asked)
    assert {text: ids for text, ids in zip(asked, answer.ids, strict=True)} == {
        text: tokenizer(text)["input_ids"] for text in asked
    }
    assert len(asked) > 12


def test_the_demo_model_pruned_by_a_recipe_is_the_same_in_llama_cpp(tmp_path):
    """The whole way: `hgsp run` with two exports; llama.cpp against the Hugging Face directory on real text."""
    recipe = (ROOT / "recipes" / "demo.yaml").read_text().replace("models/pydoc-llama", str(MODEL))
    recipe = recipe.replace(
        "export: [{use: huggingface}]", "export: [{use: huggingface}, {use: gguf, with: {type: f32}}]"
    )
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "recipe.yaml").write_text(recipe)
    done = hgsp("run", "recipe.yaml", "--output", "out", "--json", cwd=tmp_path / "here")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["exports"] == ["model", "gguf/model-f32.gguf"]
    assert any("token ids of" in note for note in report["notes"])
    run = tmp_path / "here" / "out"
    model, _ = load_model(run / "model")
    tokenizer = load_tokenizer(run / "model")
    text = (Path(sys.modules["hgsp_core"].__file__).parent / "texts" / "pydoc" / "evaluation.txt").read_text()[:20000]
    ids = tokenizer(text)["input_ids"]
    theirs = llama(run / report["exports"][1], 256)
    assert theirs.tokenize(text.encode(), special=True) == ids
    with torch.no_grad():
        reference = model(torch.tensor([ids[:256]])).logits[0].numpy()
    theirs.eval(ids[:256])
    assert np.abs(theirs.scores[:256] - reference).max() <= 1e-3
    assert (theirs.scores[:256].argmax(1) == reference.argmax(1)).all()
    prompt = tokenizer("The function returns")["input_ids"]
    greedy = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False, pad_token_id=0)[
        0, len(prompt) :
    ]
    text = llama(run / report["exports"][1]).create_completion("The function returns", max_tokens=40, temperature=0)
    assert text["choices"][0]["text"] == tokenizer.decode(greedy, skip_special_tokens=True)


def test_ids_that_differ_fail_the_export(tmp_path, monkeypatch):
    """The check is able to fail: the file claims another rule than the tokenizer's."""
    from dataclasses import replace

    from hgsp_core.artifacts import Plan
    from hgsp_core.engine.weights import Resident
    from hgsp_core.export import run as exports
    from hgsp_core.export.gguf import export as module
    from hgsp_core.export.gguf.errors import GgufError
    from hgsp_core.export.gguf.exporter import Gguf, GgufParams

    _path, words = _vocabulary_file(tmp_path, tokenizer := KINDS["gpt-2"]())
    tokenizer.save_pretrained(tmp_path / "m")
    weights = Resident(load_model(tmp_path / "m")[0], checkpoint_layout(tmp_path / "m"))
    monkeypatch.setattr(module, "vocabulary", lambda *arguments: replace(words, pre="smollm"))
    (tmp_path / "out").mkdir()
    job = (tmp_path / "m", tmp_path / "out", Plan.keep_all(weights.layout), weights, lambda *a: None, lambda *a: None)
    with pytest.raises(GgufError, match=r"llama.cpp tokenizes .* as .*, the model's tokenizer as"):
        exports.export([Gguf(GgufParams())], *job)
    assert not any((tmp_path / "out").iterdir())


def test_a_file_that_llama_cpp_does_not_load_is_told_with_its_reason(tmp_path):
    from hgsp_core.export.gguf.errors import GgufError

    written = write(tmp_path, "llama", PLANS["sizes differ"])
    whole = written.path.read_bytes()
    written.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GgufError, match=r"(?s)llama.cpp cannot load it:.*(tensor|data|corrupt|bounds)"):
        run_llama_cpp(written.path, np.zeros((1, 2), int), [])
