"""The tokenizer of a checkpoint is the one in its tokenizer.json, whatever the model type."""

import json
import shutil

import pytest
from tokenizers import Tokenizer

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.load import load_tokenizer
from tests.helpers.command import MODEL

TEXT = "Return the number of items (x_1 == 10) in a container.\n\n    def f(): ...  \tÄ 北"


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "mistral", "hgsp"])
def test_token_ids_are_those_of_tokenizer_json(tmp_path, model_type):
    shutil.copytree(MODEL, tmp_path / "model")
    config = json.loads((MODEL / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
    (tmp_path / "model" / "chat_template.jinja").write_text("{% for m in messages %}<{{ m['content'] }}>{% endfor %}")
    tokenizer = load_tokenizer(tmp_path / "model")
    reference = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    assert tokenizer(TEXT)["input_ids"] == reference.encode(TEXT).ids
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"], skip_special_tokens=True) == TEXT
    special = json.loads((MODEL / "tokenizer_config.json").read_text())
    assert tokenizer.eos_token == special["eos_token"]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<hi>"


def test_no_tokenizer_or_a_damaged_one_is_refused_with_place_and_fix(tmp_path):
    with pytest.raises(CheckpointError, match="has no readable tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no readable tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="There is no model directory"):
        load_tokenizer(tmp_path / "nowhere")


def test_settings_that_name_no_tokenizer_class_but_something_else_are_refused(tmp_path):
    shutil.copyfile(MODEL / "tokenizer.json", tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": false}')
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json.*tokenizer_class"):
        load_tokenizer(tmp_path)


def test_token_ids_are_those_of_sentencepiece_where_its_model_is_all_there_is(tmp_path):
    import sentencepiece

    text = MODEL.parents[1] / "hgsp_core" / "texts" / "pydoc" / "evaluation.txt"
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "tokenizer"), vocab_size=600, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.vocab").unlink()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": False,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    reference = sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    for sample in (TEXT, text.read_text()[:20_000]):
        assert load_tokenizer(tmp_path)(sample, add_special_tokens=False)["input_ids"] == reference.encode(sample)
