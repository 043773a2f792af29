"""Records -> rows of tokens with labels: prompts masked, long records cut, several of them packed into one row.

A label is the token itself where it is to be learned and IGNORED elsewhere. The first token of a record is never learned:
nothing stands before it that could tell it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hgsp_core.data.run import CHARACTERS_PER_TOKEN, windows
from hgsp_core.recover.chats import ChatTemplate, Spoken
from hgsp_core.recover.records import Records

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

IGNORED = -100

#: Taori et al. 2023, Stanford Alpaca
_TASK = "Below is an instruction that describes a task"
_WITH_INPUT = f"{_TASK}, paired with an input that provides further context."
_ANSWER = " Write a response that appropriately completes the request.\n\n"


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


#: a reason why a turn is not learned; `Spoken.missing` has others
BEYOND = "they lie beyond records.seq_len"


@dataclass(frozen=True)
class Made:
    """Rows, and of chats what is not learned.

    turns  turns of the assistant that the records have
    left   why some of them are not learned -> (record, message), counted from 1
    """

    rows: list[Row]
    turns: int = 0
    left: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """For the user: how many turns are not learned, why, and which, the first few of them by name."""
        return [
            f"{len(places)} of {self.turns} turns of the assistant are not learned: {why} ("
            + "; ".join(f"record {record}, message {message}" for record, message in places[:3])
            + (f" and {len(places) - 3} more)." if len(places) > 3 else ").")
            for why, places in self.left.items()
        ]


def make_rows(records: Records, tokenizer: PreTrainedTokenizerBase, samples: int | None, seq_len: int) -> Made:
    """A row for each record (of text and windows: for each window) in order, at most `seq_len` tokens long.

    A record whose answer is cut off whole is left out.

    Raises:
        RecoverError: chats, and the tokenizer has no chat template or its template refuses some.
    """
    if records.format == "windows":
        return Made([_row(ids, ids) for ids in records.windows[:samples]])
    if records.format == "text":
        cut = windows(records.text, tokenizer, seq_len)[:samples]
        return Made([_row(ids, ids) for ids in cut.tolist()])
    if records.format == "chat":
        return _chat_rows(records, tokenizer, seq_len)
    read = [alpaca_tokens(record, tokenizer) for record in records.records]
    rows = [_row(ids[:seq_len], labels[:seq_len]) for ids, labels in read]
    return Made([row for row in rows if row.learned])


def _chat_rows(records: Records, tokenizer: PreTrainedTokenizerBase, seq_len: int) -> Made:
    template = ChatTemplate(tokenizer, records.name)
    template.check(records)
    rows, turns = [], 0
    left: dict[str, list[tuple[int, int]]] = {}
    for number, record in enumerate(records.records, start=1):
        said = template.read(record)
        ids, labels, end = chat_tokens(said, tokenizer, seq_len)
        rows.append(_row(ids, labels))
        cut = {i: BEYOND for i, start in said.turns.items() if end <= start < len(said.text)}
        missing = {**said.missing, **cut}
        turns += len({*said.turns, *missing})
        for i, why in sorted(missing.items()):
            left.setdefault(why, []).append((number, i + 1))
    return Made([row for row in rows if row.learned], turns, left)


def _row(ids: Sequence[int], labels: Sequence[int]) -> Row:
    return Row(list(ids), [IGNORED, *labels[1:]], list(range(len(ids))))


def alpaca_tokens(record: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """ids and labels [tokens] of prompt, answer and end of text; the answer and the end are learned."""
    given = record.get("input") or ""
    prompt = (_WITH_INPUT if given else f"{_TASK}.") + _ANSWER
    prompt += f"### Instruction:\n{record['instruction']}\n\n"
    prompt += f"### Input:\n{given}\n\n### Response:\n" if given else "### Response:\n"
    asked = tokenizer(prompt, verbose=False)["input_ids"]
    ids = tokenizer(prompt + record["output"], verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    if end is not None and ids[-1:] != [end]:
        ids = [*ids, end]
    start = _common(asked, ids)
    return ids, [IGNORED] * start + ids[start:]


def chat_tokens(said: Spoken, tokenizer: PreTrainedTokenizerBase, seq_len: int) -> tuple[list[int], list[int], int]:
    """ids and labels [tokens] of the first `seq_len` tokens of a chat, and the character where they end.

    A token that a border runs through is learned: the model must write it whole to write its part of it. The characters of a
    token are counted from the end of the one before, as offsets leave out spaces that belong to it.
    """
    ids, offsets = _first_tokens(said.text, tokenizer, seq_len)
    parts = iter([*said.parts, (len(said.text) + 1, len(said.text) + 1)])
    part, end, labels = next(parts), 0, []
    for token, (start, stop) in zip(ids, offsets, strict=True):
        start, end = min(start, end), max(stop, end)
        while part[1] <= start:
            part = next(parts)
        labels.append(token if part[0] < max(end, start + 1) else IGNORED)
    return ids, labels, end


def _first_tokens(text: str, tokenizer: PreTrainedTokenizerBase, count: int) -> tuple[list[int], list[tuple[int, int]]]:
    """ids and offsets; of a long text, only the part that is enough is tokenized."""
    for part in (text[: 2 * count * CHARACTERS_PER_TOKEN], text):
        encoded = tokenizer(part, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if len(part) == len(text) or len(encoded["input_ids"]) >= 2 * count:
            break  # the last tokens of a part may be others than in the text
    return encoded["input_ids"][:count], encoded["offset_mapping"][:count]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of what two sequences have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


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
        Row(joined(t, lambda r: r.ids), joined(t, lambda r: r.labels), joined(t, lambda r: r.positions))
        for t in packed()
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
