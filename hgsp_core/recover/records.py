"""Training data by name: instructions, chats or plain text, every record checked before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from hgsp_core.data.contract import DatasetJob
from hgsp_core.data.errors import DataError
from hgsp_core.data.run import CHARACTERS_PER_TOKEN, open_dataset, read_text
from hgsp_core.recover.errors import RecoverError

_ALPACA = "An instruction record has the texts 'instruction' and 'output', and may have 'input'."
_CHAT = (
    "A chat record has 'messages', a list of {role, content}, at least one of them with the role 'assistant'; "
    "an assistant's message may have 'tool_calls', a list of {name, arguments}, instead of content."
)


@dataclass(frozen=True)
class Records:
    """What is to be learned: records of the format "alpaca" or "chat", a single text of the format "text", or "windows" of ids."""

    name: str
    format: str
    records: tuple[Mapping[str, Any], ...] = ()
    text: str = ""
    windows: Sequence[Sequence[int]] = ()


def read_records(name: str, options: Mapping[str, Any], format: str, samples: int | None, seq_len: int) -> Records:
    """The first `samples` records (None: all) of a dataset's calibration split.

    Args:
        name: dataset name, local file or hub id, with the parameters `options`.
        format: "alpaca", "chat", "text", or "auto": by the fields of the first record.
        seq_len: tokens of a window; of plain text, only what `samples` windows need is read.

    Raises:
        DataError: no such dataset, unreadable, empty, or without its column of text.
        RecoverError: a record without its fields (its number is named), or none at all.
    """
    dataset, job = open_dataset(name, options, "recover: dataset"), DatasetJob("calibration")
    rows = dataset.rows(job)
    if rows is not None and format != "text":
        records = iter(rows)
        first = next(records, None)
        if first is None:
            raise DataError.empty(name)
        found = format if format != "auto" else _format_of(first, name, options.get("column", "text"))
        if found != "text":
            all_records = islice(chain([first], records), samples)
            return Records(name, found, tuple(_checked(all_records, name, CHECKS[found])))
    if format not in ("auto", "text"):
        raise RecoverError.only_text(name, format)
    characters = samples and samples * seq_len * CHARACTERS_PER_TOKEN
    return Records(name, "text", text=read_text(dataset, job.split, characters, name))


def _format_of(record: Mapping[str, Any], name: str, column: str) -> str:
    if "messages" in record:
        return "chat"
    if "instruction" in record or "output" in record:
        return "alpaca"
    if column in record:
        return "text"
    raise RecoverError.no_format(name, list(record), column)


def _checked(
    rows: Iterable[Mapping[str, Any]], name: str, fault_of: Callable[[Mapping[str, Any]], tuple[str, str] | None]
) -> Iterable[Mapping[str, Any]]:
    for number, record in enumerate(rows, start=1):
        if fault := fault_of(record):
            raise RecoverError.record(name, number, *fault)
        yield record


def _alpaca_fault(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is wrong, and what would be right; a file's missing field is None here, as all its records get all fields."""
    for key in ("instruction", "output"):
        if record.get(key) is None:
            return f"has no '{key}'", _ALPACA
    for key in ("instruction", "input", "output"):
        if not isinstance(record.get(key) or "", str):
            return f"has a '{key}' that is {type(record[key]).__name__}, not text", _ALPACA
    if not record["output"].strip():
        return "has an empty 'output', so nothing can be learned from it", _ALPACA
    return None


def _chat_fault(record: Mapping[str, Any]) -> tuple[str, str] | None:
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        return "has no 'messages'", _CHAT
    for position, message in enumerate(messages, start=1):
        if fault := _message_fault(message):
            return f"{fault} in message {position}", _CHAT
    if not isinstance(record.get("tools") or [], list):
        return f"has 'tools' that are {type(record['tools']).__name__}, not a list", _CHAT
    if not any(message["role"] == "assistant" for message in messages):
        return "has no message with the role 'assistant'", _CHAT
    return None


def _message_fault(message: Any) -> str | None:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return "has no 'role'"
    calls = message.get("tool_calls") if message["role"] == "assistant" else None
    if calls and not (isinstance(calls, list) and all(map(_is_call, calls))):
        return "has 'tool_calls' that are no list of {name, arguments}"
    if not isinstance(message.get("content"), str) and not (calls and message.get("content") is None):
        return "has no 'content'"
    return None


def _is_call(call: Any) -> bool:
    """Whether it is {name, ...} or {function: {name, ...}}."""
    called = (call.get("function") or call) if isinstance(call, Mapping) else None
    return isinstance(called, Mapping) and isinstance(called.get("name"), str)


CHECKS = {"alpaca": _alpaca_fault, "chat": _chat_fault}
