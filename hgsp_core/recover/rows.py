"""Records -> rows of tokens with labels: prompts masked, long records cut, several of them packed into one row.

A label is the token itself where it is to be learned and IGNORED elsewhere. The first token of a record is never learned:
nothing stands before it that could tell it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hgsp_core.data import windows
from hgsp_core.errors import RecoverError
from hgsp_core.recover.records import Records

IGNORED = -100

#: Taori et al. 2023, Stanford Alpaca
_HEAD = "Below is an instruction that describes a task{}. Write a response that appropriately completes the request.\n\n"
_WITH_INPUT = _HEAD.format(", paired with an input that provides further context")
_WITHOUT_INPUT = _HEAD.format("")


@dataclass(frozen=True)
class Row:
    """ids, labels and positions [tokens]; positions begin again with each record that the row holds."""

    ids: list[int]
    labels: list[int]
    positions: list[int]

    @property
    def learned(self) -> int:
        """Tokens whose prediction counts."""
        return sum(label != IGNORED for label in self.labels)


#: in place of a row where the last batch of an epoch is not full: it adds nothing to any sum
BLANK = Row([0], [IGNORED], [0])


def make_rows(records: Records, tokenizer: Any, samples: int | None, seq_len: int) -> list[Row]:
    """A row for each record (of text: for each window) in order, at most `seq_len` tokens long.

    A record whose answer is cut off whole is left out.

    Raises:
        RecoverError: chats, and the tokenizer has no chat template or its template refuses one.
    """
    if records.format == "text":
        cut = windows(records.text, tokenizer, seq_len)[:samples]
        return [_row(ids, ids) for ids in cut.tolist()]
    if records.format == "chat" and not tokenizer.chat_template:
        raise RecoverError.no_template(records.name)
    read = {"alpaca": alpaca_tokens, "chat": chat_tokens}[records.format]
    rows = []
    for number, record in enumerate(records.records, start=1):
        try:
            ids, labels = read(record, tokenizer)
        except Exception as error:  # noqa: BLE001 - a template is a program and may raise anything
            if records.format != "chat":
                raise
            raise RecoverError.bad_template(number, error) from None
        rows.append(_row(ids[:seq_len], labels[:seq_len]))
    return [row for row in rows if row.learned]


def _row(ids: Sequence[int], labels: Sequence[int]) -> Row:
    return Row(list(ids), [IGNORED, *labels[1:]], list(range(len(ids))))


def alpaca_tokens(record: Mapping[str, Any], tokenizer: Any) -> tuple[list[int], list[int]]:
    """ids and labels [tokens] of prompt, answer and end of text; the answer and the end are learned."""
    given = record.get("input") or ""
    prompt = _WITH_INPUT if given else _WITHOUT_INPUT
    prompt += f"### Instruction:\n{record['instruction']}\n\n"
    prompt += f"### Input:\n{given}\n\n### Response:\n" if given else "### Response:\n"
    asked = tokenizer(prompt, verbose=False)["input_ids"]
    ids = tokenizer(prompt + record["output"], verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    if end is not None and ids[-1:] != [end]:
        ids = [*ids, end]
    start = _common(asked, ids)
    return ids, [IGNORED] * start + ids[start:]


def chat_tokens(record: Mapping[str, Any], tokenizer: Any) -> tuple[list[int], list[int]]:
    """ids and labels [tokens] of a conversation; what the assistant says, and how the template ends it, is learned."""

    def tokens(messages: Sequence[Mapping[str, str]], asks: bool = False) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    messages = record["messages"]
    ids = tokens(messages)
    labels = [IGNORED] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] == "assistant":
            start = _common(tokens(messages[:turn], asks=True), ids) if turn else 0
            end = _common(tokens(messages[: turn + 1]), ids)
            labels[start:end] = ids[start:end]
    return ids, labels


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of what two sequences have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def hold_out(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows held out): `share` of them, at least one, chosen by `seed`; both in their order."""
    count = max(1, round(share * len(rows)))
    held = set(np.random.default_rng(seed).permutation(len(rows))[:count].tolist())
    return [row for i, row in enumerate(rows) if i not in held], [row for i, row in enumerate(rows) if i in held]


def pack(rows: Iterable[Row], seq_len: int) -> list[Row]:
    """Rows of at most `seq_len` tokens, each holding as many of the given ones as follow each other and fit.

    Positions that begin again tell transformers to mask attention between records.
    """

    def packed() -> Iterator[list[Row]]:
        together: list[Row] = []
        for row in rows:
            if together and sum(len(r.ids) for r in together) + len(row.ids) > seq_len:
                yield together
                together = []
            together.append(row)
        if together:
            yield together

    def joined(together: list[Row], part: Callable[[Row], list[int]]) -> list[int]:
        return [value for row in together for value in part(row)]

    return [
        Row(joined(t, lambda r: r.ids), joined(t, lambda r: r.labels), joined(t, lambda r: r.positions)) for t in packed()
    ]


def batch(rows: Sequence[Row]) -> dict[str, Tensor]:
    """input_ids, labels, position_ids [rows, tokens of the longest], shorter rows filled up at their end.

    No attention mask is needed: with causal attention no token sees what follows it, and what is filled in is not learned.
    Positions run on there, so that it does not look like another record.
    """
    length = max(len(row.ids) for row in rows)

    def filled(part: Callable[[Row], list[int]], fill: Callable[[Row, int], list[int]]) -> Tensor:
        return torch.tensor([part(row) + fill(row, length - len(row.ids)) for row in rows])

    return {
        "input_ids": filled(lambda r: r.ids, lambda r, n: [0] * n),
        "labels": filled(lambda r: r.labels, lambda r, n: [IGNORED] * n),
        "position_ids": filled(lambda r: r.positions, lambda r, n: [r.positions[-1] + 1 + i for i in range(n)]),
    }
