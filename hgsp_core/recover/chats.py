"""Which part of a chat's text the assistant says, under any chat template.

The marks of a template ({% generation %}) are used as they are. With any other template the chat is rendered a second time with a
meaningless character in each message, which shows its position. This counts only if the text without these characters is the
original one, so whatever the template trims, drops or adds does not matter. A turn begins after the generation prompt and ends
after what the template writes to close it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from transformers.utils.chat_template_utils import render_jinja_template

from hgsp_core.recover.errors import RecoverError
from hgsp_core.recover.records import Records

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

NOT_SHOWN = "the chat template does not show them"
NOT_CERTAIN = "their place in the chat template's text is not certain"
NOT_MARKED = "the {% generation %} marks of the chat template leave them out"

_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
#: Unicode sets it aside for private use, so no text means anything by it
_PRIVATE = range(0xF0000, 0x110000)

Message = dict[str, Any]


@dataclass(frozen=True)
class Spoken:
    """A chat as its template writes it. Positions are characters of `text`.

    parts    (start, end) of what the assistant says, with what closes each turn, in the order of the text
    turns    message -> where the part of that turn begins
    missing  message of the assistant -> why no part is known to be its own
    """

    text: str
    parts: tuple[tuple[int, int], ...]
    turns: Mapping[int, int]
    missing: Mapping[int, str]


class ChatTemplate:
    """The chat template of a tokenizer.

    Raises:
        RecoverError: there is none, or the tokenizer cannot tell which characters a token stands for.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str):
        if not tokenizer.chat_template:
            raise RecoverError.no_template(name)
        if not tokenizer.is_fast:
            raise RecoverError.slow_tokenizer(name, type(tokenizer).__name__)
        self.tokenizer = tokenizer
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        one = "|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)"
        self.special, self.closes = re.compile(one), re.compile(rf"(?:{one})+\s*")

    def check(self, records: Records) -> None:
        """Raises RecoverError where the template refuses records: all that it refuses are counted."""
        refused: dict[int, Exception] = {}
        for number, record in enumerate(records.records, start=1):
            try:
                _Chat(self, record)
            except Exception as error:  # noqa: BLE001 - a template is a program and may raise anything
                refused[number] = error
        if refused:
            raise RecoverError.refused(records.name, len(records.records), list(refused), next(iter(refused.values())))

    def read(self, record: Mapping[str, Any]) -> Spoken:
        """The record's chat; raises what the template raises."""
        chat = _Chat(self, record)
        if _GENERATION.search(self.tokenizer.get_chat_template(tools=chat.tools)):
            return chat.as_marked()
        return chat.as_found()


class _Chat:
    """One chat and its renderings. Positions are characters of `text`."""

    def __init__(self, template: ChatTemplate, record: Mapping[str, Any]):
        self.template, self.tokenizer, self.tools = template, template.tokenizer, record.get("tools") or None
        self.messages: list[Message] = [
            {key: value for key, value in m.items() if value is not None} for m in record["messages"]
        ]
        self.assistant = [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]
        self.text = self.render(self.messages)

    def render(self, messages: Sequence[Message], asks: bool = False) -> str:
        text = self.tokenizer.apply_chat_template(
            list(messages), tools=self.tools, tokenize=False, add_generation_prompt=asks
        )
        assert isinstance(text, str)  # as nothing is tokenized
        return text

    def try_render(self, messages: Sequence[Message], asks: bool = False) -> str | None:
        """The same of a chat that is not the record's: None where the template refuses it."""
        try:
            return self.render(messages, asks)
        except Exception:  # noqa: BLE001 - a template is a program and may raise anything
            return None

    def as_marked(self) -> Spoken:
        """By the marks that the template has."""
        tokens: dict[str, Any] = {**self.tokenizer.special_tokens_map}
        rendered: Any = render_jinja_template(  # annotated as text; it gives texts, and the marked places in each
            [self.messages],
            tools=self.tools,
            chat_template=self.tokenizer.get_chat_template(tools=self.tools),
            return_assistant_tokens_mask=True,
            **tokens,
        )
        _, (found,) = rendered
        parts: list[tuple[int, int]] = sorted((start, end) for start, end in found if start < end)
        owned = self.places or [
            (start, i)
            for i, (start, _) in zip(self.assistant, parts, strict=False)
            if len(parts) == len(self.assistant)
        ]
        turns = {i: start for start, end in parts for place, i in owned if start <= place <= end}
        return Spoken(self.text, tuple(parts), turns, {i: NOT_MARKED for i in self.assistant if i not in turns})

    def as_found(self) -> Spoken:
        """By the positions of the marks of the messages."""
        parts: dict[int, tuple[int, int]] = {}
        missing: dict[int, str] = {}
        for i in self.assistant:
            at = [n for n, (_, message) in enumerate(self.places) if message == i]
            if at and at[-1] - at[0] == len(at) - 1 and (part := self._part(i, at[0], at[-1])):
                parts[i] = part
            else:
                missing[i] = NOT_CERTAIN if at or not self.places else NOT_SHOWN
        turns = {i: start for i, (start, _) in parts.items()}
        return Spoken(self.text, tuple(sorted(parts.values())), turns, missing)

    @property
    def places(self) -> list[tuple[int, int]]:
        """(position, message) of the marks, in the order of the text; empty where no way of marking leaves the text as it is."""
        return self._found[1]

    @property
    def marked(self) -> list[Message]:
        """The messages with their marks, as they were found."""
        return self._found[0]

    @cached_property
    def _found(self) -> tuple[list[Message], list[tuple[int, int]]]:
        number = {mark: i for i, mark in enumerate(self.marks)}
        for marked in self._markings() if number else ():
            rendered = self.try_render(marked)
            if rendered is not None and self.any_mark.sub("", rendered) == self.text:
                found = self.any_mark.finditer(rendered)
                return marked, [(at.start() - before, number[at[0]]) for before, at in enumerate(found)]
        return self.messages, []

    @cached_property
    def marks(self) -> Sequence[str]:
        """A character for each message, in a row, and one more that the text does not have; empty where there are none."""
        there, wanted = set(self.text), len(self.messages) + 1
        rows = (list(map(chr, range(at, at + wanted))) for at in range(_PRIVATE.start, _PRIVATE.stop - wanted, wanted))
        return next((row for row in rows if there.isdisjoint(row)), ())

    @cached_property
    def any_mark(self) -> re.Pattern[str]:
        return re.compile(f"[{self.marks[0]}-{self.marks[-1]}]")

    def _markings(self) -> Iterator[list[Message]]:
        """The messages with their marks: of the assistant at the end of what it says, of others at both ends.

        A template may trim spaces (then the marks must be inside of them), look at the tags that a question begins and ends with
        (inside of those), or leave out an empty turn (which must stay empty).
        """
        for empty, ours, theirs in product((True, False), ("outer", "inner"), ("outer", "inner", "within")):
            yield [
                _marked(message, mark, ours if message["role"] == "assistant" else theirs, empty)
                for message, mark in zip(self.messages, self.marks, strict=False)
            ]

    def _part(self, i: int, first: int, last: int) -> tuple[int, int] | None:
        """(start, end) of a turn that has the marks from `first` to `last`, or None where one of them is not certain."""
        before = self.places[first - 1][0] if first else 0
        after = self.places[last + 1][0] if last + 1 < len(self.places) else len(self.text)
        start, end = self._start(i, before, self.places[first][0]), self._end(i, self.places[last][0], after)
        return None if start is None or end is None else (start, end)

    def _start(self, i: int, before: int, place: int) -> int | None:
        """Behind the generation prompt; where there is none, behind what the template writes before another answer here."""
        if self.prompt.strip() and (at := self.text.find(self.prompt, before, place)) >= 0:
            return at + len(self.prompt)
        calls = self.messages[i].get("tool_calls")
        heads = self._heads([*self.marked[:i], self._answer(i)]) if calls else self.heads
        head = heads.get(self.marks[i])
        return before + len(head) if head is not None and self.text.startswith(head, before, place) else None

    @cached_property
    def heads(self) -> Mapping[str, str]:
        """`_heads` of the chat with other answers in place of its own; tool calls are kept for what follows them."""
        chat = list(self.marked)
        for i in self.assistant:
            if not self.messages[i].get("tool_calls"):
                chat[i] = self._answer(i)
        return self._heads(chat)

    def _heads(self, chat: Sequence[Message]) -> Mapping[str, str]:
        """Mark -> what the template writes between the mark before and this one.

        A space at its end is left out: it is the model's to write, often as one token with the first word.
        """
        rendered = self.try_render(chat) or ""
        return {
            mark: head.rstrip(" ")
            for head, mark in zip(self.any_mark.split(rendered), self.any_mark.findall(rendered), strict=False)
        }

    def _answer(self, i: int) -> Message:
        return {"role": "assistant", "content": self.marks[i]}

    def _end(self, i: int, place: int, after: int) -> int | None:
        """Behind what closes the turn, or else its first special token; tool calls are written between the mark and that."""
        rest, closing = self.text[place:after], self.closing
        calls = bool(self.messages[i].get("tool_calls"))
        if closing is not None and (closing.strip() or not calls) and (at := rest.find(closing)) >= 0:
            return place + at + len(closing)
        if special := self.template.special.search(rest):
            return place + special.end()
        return None if calls else place + len(commonprefix([rest, closing or ""]))  # noqa: RUF071 - of texts

    @cached_property
    def prompt(self) -> str:
        """What the template writes to ask for an answer, if anything."""
        asking = self.try_render(self.messages, asks=True) or self.text
        known = len(self.text) if asking.startswith(self.text) else len(commonprefix([asking, self.text]))  # noqa: RUF071
        return asking[known:] or self.prompt_always

    @cached_property
    def prompt_always(self) -> str:
        """The same of a template that writes it at the end of every chat, asked or not: it begins an answer there too."""
        head, mark, _ = (self.try_render([self._answer(-1)]) or "").partition(self.marks[-1])
        head = head.removeprefix(self.tokenizer.bos_token or "")
        return head if mark and head.strip() and self.text.endswith(head) else ""

    @cached_property
    def closing(self) -> str | None:
        """What the template writes behind the last answer of a chat; None where that cannot be known."""
        last = self.messages[-1]
        if self.places[-1][1] == len(self.messages) - 1 and last["role"] == "assistant" and not last.get("tool_calls"):
            tail = self.text[self.places[-1][0] :]
        else:
            _, mark, tail = (self.try_render([*self.marked, self._answer(-1)]) or "").partition(self.marks[-1])
            if not mark:
                return None
        tail = tail.removesuffix(self.prompt_always)
        special = self.template.closes.search(tail)
        return tail[: special.end()] if special else tail


def _marked(message: Message, mark: str, where: str, empty: bool) -> Message:
    content, calls = message.get("content") or "", message.get("tool_calls")
    if message["role"] != "assistant":
        there = isinstance(content, str) and content.strip()
        return {**message, "content": _enclosed(content, mark, where)} if there else message
    marked = dict(message)
    if content.strip() or (empty and not calls):
        at = len(content if where == "outer" else content.rstrip())
        marked["content"] = content[:at] + mark + content[at:]
    if calls:
        marked["tool_calls"] = [*calls[:-1], _marked_call(calls[-1], mark)]
    return marked


def _enclosed(content: str, mark: str, where: str) -> str:
    if where == "outer":
        return mark + content + mark
    core = content.strip()
    start = content.index(core)
    if where == "within":
        at = start + max(core.rfind("<"), len(core) // 2)
        return content[:at] + mark + content[at:]
    return content[:start] + mark + core + mark + content[start + len(core) :]


def _marked_call(call: Message, mark: str) -> Message:
    """A tool call, which is {name, ...} or {function: {name, ...}}, with the mark behind its name."""
    if isinstance(function := call.get("function"), dict):
        return {**call, "function": _marked_call(function, mark)}
    return {**call, "name": f"{call['name']}{mark}"}
