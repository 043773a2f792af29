"""Perplexity is what a plain loop over a transformers model gives, by the protocol that the result states."""

import hashlib
import json
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import cross_entropy

from hgsp_core.checkpoint.load import load_model, load_tokenizer
from hgsp_core.data.errors import DataError
from hgsp_core.evaluate.checkpoint import evaluate_checkpoint
from hgsp_core.evaluate.errors import EvaluationError
from hgsp_core.evaluate.run import open_evaluators
from hgsp_core.plugin import registry
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import Use
from tests.helpers.command import MODEL

TEXT = "\n\n".join(
    f"Module number {i} has {i * i} functions, and function {i} returns the list of its arguments." for i in range(40)
)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "modules.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def ids():
    return load_tokenizer(MODEL)(TEXT, add_special_tokens=False)["input_ids"]


def measured(text, model=MODEL, **params):
    use = Use.model_validate({"use": "perplexity", "with": {"datasets": [str(text)], **params}})
    found = evaluate_checkpoint(model, [use], LogMonitor())["after"]
    return found["perplexity"][str(text)], found["perplexity_protocol"][str(text)]


@torch.no_grad()
def sliding_window(ids, seq_len, stride) -> tuple[float, int]:
    """The loop of transformers' guide "Perplexity of fixed-length models", whole windows, with each predicted token counted once."""
    model, _ = load_model(MODEL)
    total, count, previous_end = 0.0, 0, 0
    for begin in range(0, len(ids) - seq_len + 1, stride):
        end = begin + seq_len
        window = torch.tensor([ids[begin:end]])
        labels = window.clone()
        labels[:, : -(end - previous_end)] = -100
        logits = model(window).logits[0, :-1].double()
        total += cross_entropy(logits, labels[0, 1:], ignore_index=-100, reduction="sum").item()
        count += (labels[0, 1:] != -100).sum().item()
        previous_end = end
    return math.exp(total / count), count


@pytest.mark.parametrize("stride", [0, 20, 7])
def test_perplexity_is_that_of_a_plain_loop_over_sliding_windows(text, ids, stride):
    value, protocol = measured(text, seq_len=32, stride=stride, batch_size=7)
    expected, count = sliding_window(ids, 32, stride or 32)
    assert value == pytest.approx(expected, rel=1e-5)
    assert protocol["predicted_tokens"] == count


def test_a_stride_of_the_whole_window_is_no_overlap(text):
    assert measured(text, seq_len=32, stride=32)[0] == measured(text, seq_len=32)[0]


def test_context_before_the_predicted_tokens_lowers_perplexity(text):
    assert measured(text, seq_len=64, stride=8)[0] < measured(text, seq_len=64)[0]


def test_the_result_states_how_it_was_measured(text, ids):
    _, protocol = measured(text, seq_len=50, stride=30, max_windows=5)
    windows = np.array([ids[i : i + 50] for i in range(0, 150, 30)], dtype="<i8")
    assert protocol == {
        "dataset": str(text),
        "with": {},
        "split": "evaluation",
        "seq_len": 50,
        "stride": 30,
        "windows": 5,
        "predicted_tokens": 49 + 4 * 30,
        "tokens_sha256": hashlib.sha256(windows.tobytes()).hexdigest(),
    }


def test_each_dataset_has_its_own_parameters_and_may_be_given_a_name(tmp_path):
    stories, notes = tmp_path / "stories.jsonl", tmp_path / "notes.jsonl"
    stories.write_text(json.dumps({"story": TEXT}))
    notes.write_text(json.dumps({"note": TEXT, "story": "another text"}))
    datasets = [
        {"use": str(stories), "with": {"column": "story"}, "name": "stories"},
        {"use": str(notes), "with": {"column": "note"}, "name": "notes"},
    ]
    use = Use.model_validate({"use": "perplexity", "with": {"datasets": datasets, "seq_len": 16}})
    found = evaluate_checkpoint(MODEL, [use], LogMonitor())["after"]
    assert set(found["perplexity"]) == {"stories", "notes"}
    assert found["perplexity"]["stories"] == found["perplexity"]["notes"]


def test_windows_of_two_lengths_of_one_text_stand_side_by_side(text):
    def use(seq_len, name):
        dataset = {"use": str(text), "name": name}
        return Use.model_validate({"use": "perplexity", "with": {"datasets": [dataset], "seq_len": seq_len}})

    found = evaluate_checkpoint(MODEL, [use(16, "short"), use(128, "long")], LogMonitor())["after"]["perplexity"]
    assert found["long"] < found["short"]
    with pytest.raises(EvaluationError, match=r"evaluate.1: 'perplexity, same' is measured twice"):
        open_evaluators([use(16, "same"), use(128, "same")])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "There is no file"),
        ("empty.txt", "", "contains no text"),
        ("rows.jsonl", '{"story": "x"}', "has no column 'text'"),
    ],
)
def test_a_text_that_cannot_be_used_is_found_before_any_work(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        open_evaluators([Use.model_validate({"use": "perplexity", "with": {"datasets": [str(tmp_path / name)]}})])


def test_a_stride_beyond_the_window_is_refused():
    params = registry.installed().find("evaluator", "perplexity").method.params
    with pytest.raises(ValidationError, match="more than seq_len 32"):
        params(seq_len=32, stride=33)
