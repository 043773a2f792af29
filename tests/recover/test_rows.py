"""Training data: records are checked one by one, prompts are masked, and packing and filling up change nothing that is learned."""

import json

import datasets
import pytest
import torch

from hgsp_core.checkpoint.load import load_model, load_tokenizer
from hgsp_core.data.errors import DataError
from hgsp_core.recover.errors import RecoverError
from hgsp_core.recover.records import Records, read_records
from hgsp_core.recover.rows import BLANK, IGNORED, Row, batch, hold_out, make_rows, pack
from tests.helpers.architectures import tiny_model
from tests.helpers.checkpoints import PLANS, prune
from tests.helpers.command import MODEL

TEMPLATE = "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"
ALPACA = {"instruction": "Add the numbers.", "input": "1 and 2", "output": "It is 3."}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MODEL)


def records(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_the_prompt_of_an_instruction_is_masked_and_its_answer_and_end_are_learned(tokenizer):
    prompt = (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd the numbers.\n\n### Input:\n1 and 2\n\n### Response:\n"
    )
    (row,) = make_rows(Records("x", "alpaca", (ALPACA,)), tokenizer, None, 512).rows
    asked, answer = tokenizer(prompt)["input_ids"], tokenizer("It is 3.")["input_ids"]
    assert row.ids == [*asked, *answer, tokenizer.eos_token_id]
    assert row.labels == [-100] * len(asked) + answer + [tokenizer.eos_token_id]


def test_an_instruction_without_input_says_nothing_of_one(tokenizer):
    prompt = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSay hello.\n\n### Response:\n"
    )
    record = {"instruction": "Say hello.", "input": None, "output": "Hello!"}
    (row,) = make_rows(Records("x", "alpaca", (record,)), tokenizer, None, 512).rows
    assert tokenizer.decode(row.ids) == prompt + "Hello!<|endoftext|>"
    assert tokenizer.decode([i for i in row.labels if i != IGNORED]) == "Hello!<|endoftext|>"


def test_of_a_chat_only_what_the_assistant_says_is_learned(tokenizer):
    said = [
        ("system", "Be short."),
        ("user", "Is it?"),
        ("assistant", "Yes, it is."),
        ("user", "Sure?"),
        ("assistant", "No."),
    ]
    record = {"messages": [{"role": role, "content": content} for role, content in said]}
    tokenizer.chat_template = TEMPLATE
    try:
        (row,) = make_rows(Records("x", "chat", (record,)), tokenizer, None, 512).rows
    finally:
        tokenizer.chat_template = None
    assert tokenizer.decode(row.ids) == "".join(f"[{role}]\n{content}\n" for role, content in said)
    learned = [i for i, label in enumerate(row.labels) if label != IGNORED]
    assert tokenizer.decode([row.ids[i] for i in learned]) == "Yes, it is.\nNo.\n"
    assert [row.labels[i] for i in learned] == [row.ids[i] for i in learned]


def test_text_is_cut_into_windows_of_which_all_but_the_first_token_is_learned(tokenizer):
    text = "The quick brown fox jumps over the lazy dog, again and again. " * 9
    rows = make_rows(Records("x", "text", text=text), tokenizer, 3, 16).rows
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [row.ids for row in rows] == [ids[i * 16 : i * 16 + 16] for i in range(3)]
    assert all(row.labels == [-100, *row.ids[1:]] for row in rows)


def test_long_records_are_cut_and_those_whose_answer_is_cut_off_are_left_out(tokenizer):
    long = {"instruction": "word " * 400, "output": "never seen"}
    rows = make_rows(Records("x", "alpaca", (ALPACA, long)), tokenizer, None, 100).rows
    assert len(rows) == 1
    assert len(rows[0].ids) <= 100


@pytest.mark.parametrize("source", ["llama", "qwen2-window", "pruned"])
def test_packed_and_filled_up_rows_give_each_record_the_logits_that_it_has_alone(source, tmp_path):
    model = (
        load_model(prune(tmp_path, "llama", PLANS["everything"]).directory)[0]
        if source == "pruned"
        else tiny_model(source)
    )
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(1, 97, (n,), generator=generator).tolist() for n in (7, 9, 4, 11, 3)]
    rows = [Row(i, [IGNORED, *i[1:]], list(range(len(i)))) for i in ids]
    packed = pack(rows, 20)
    assert [len(row.ids) for row in packed] == [20, 14]
    assert packed[0].positions == [*range(7), *range(9), *range(4)]
    inputs = batch([*packed, BLANK])
    assert inputs["labels"].ne(IGNORED).sum() == sum(row.learned for row in rows)
    with torch.no_grad():
        alone = [model(torch.tensor([i]), use_cache=False).logits[0] for i in ids]
        together = model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False).logits
    torch.testing.assert_close(together[0, :20], torch.cat(alone[:3]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together[1, :14], torch.cat(alone[3:]), atol=1e-4, rtol=1e-4)


def test_held_out_rows_are_chosen_by_the_seed_and_are_not_trained_on():
    rows = [Row([i, i], [IGNORED, i], [0, 1]) for i in range(40)]
    trained, held = hold_out(rows, 0.1, seed=3)
    assert len(held) == 4
    assert sorted(trained + held, key=lambda row: row.ids) == rows
    assert (trained, held) == hold_out(rows, 0.1, seed=3) != hold_out(rows, 0.1, seed=4)
    assert len(hold_out(rows[:2], 0.05, seed=0)[1]) == 1


def test_the_format_is_seen_from_the_first_record(tmp_path):
    chat = [{"messages": [{"role": "assistant", "content": "Hi."}]}]
    assert read_records(records(tmp_path / "a.jsonl", [ALPACA] * 3), {}, "auto", 2, 16).records == (ALPACA, ALPACA)
    assert read_records(records(tmp_path / "c.jsonl", chat), {}, "auto", None, 16).format == "chat"
    assert (
        read_records(records(tmp_path / "t.jsonl", [{"text": "one"}, {"text": "two"}]), {}, "auto", None, 16).text
        == "one\n\ntwo"
    )
    (tmp_path / "t.txt").write_text("plain\n")
    assert read_records(str(tmp_path / "t.txt"), {}, "auto", None, 16).text == "plain"
    body = records(tmp_path / "b.jsonl", [{"body": "named"}])
    assert read_records(body, {"column": "body"}, "auto", None, 16).text == "named"
    assert "Python" in read_records("pydoc", {}, "auto", 10, 16).text
    (tmp_path / "list.json").write_text(json.dumps([ALPACA, ALPACA]))
    assert len(read_records(str(tmp_path / "list.json"), {}, "alpaca", None, 16).records) == 2


USER = {"role": "user", "content": "?"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([ALPACA, {"instruction": "x", "input": ""}], "record 2 of .* has no 'output'"),
        ([{"output": "x"}, ALPACA], "record 1 of .* has no 'instruction'"),
        ([ALPACA, {**ALPACA, "output": " "}], "record 2 of .* has an empty 'output'"),
        ([{"messages": [USER]}], "record 1 of .* has no message with the role 'assistant'"),
        ([{"messages": [USER, {"role": "assistant"}]}], "record 1 of .* has no 'content' in message 2"),
        ([{"messages": []}], "record 1 of .* has no 'messages'"),
        ([{"messages": [USER, ["assistant", "x"]]}], "record 1 of .* has no 'role' in message 2"),
        (
            [{"messages": [USER, {"role": "assistant", "content": ["x"]}]}],
            "record 1 of .* has no 'content' in message 2",
        ),
        (
            [{"messages": [USER, {"role": "assistant", "tool_calls": [{"id": 1}]}]}],
            "has 'tool_calls' that are no list of .* in message 2",
        ),
        (
            [{"messages": [USER, {"role": "assistant", "content": "x"}], "tools": "look"}],
            "has 'tools' that are str, not a list",
        ),
        ([{"body": "x"}], "fields body.*column: NAME"),
    ],
)
def test_a_record_without_its_fields_is_named_by_its_number(lines, message, tmp_path):
    with pytest.raises(RecoverError, match=message):
        read_records(records(tmp_path / "r.jsonl", lines), {}, "auto", None, 16)


def test_data_that_is_not_there_or_empty_is_refused(tmp_path, tokenizer):
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "train.jsonl").write_text("")
    datasets.Dataset.from_dict({"instruction": [], "output": []}).to_parquet(tmp_path / "none.parquet")
    for name in ("list.json", "train.jsonl", "none.parquet"):
        with pytest.raises(DataError, match="contains no text"):
            read_records(str(tmp_path / name), {}, "auto", None, 16)
    with pytest.raises(DataError, match=r"no file .* Did you mean 'train.jsonl'"):
        read_records(str(tmp_path / "trian.jsonl"), {}, "auto", None, 16)
    with pytest.raises(RecoverError, match="is plain text, not records"):
        read_records("pydoc", {}, "chat", 10, 16)
    with pytest.raises(RecoverError, match="no chat template"):
        make_rows(Records("x", "chat", ({"messages": []},)), tokenizer, None, 16)
