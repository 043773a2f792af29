"""Chat training: of every chat template, what the assistant says is learned, with what closes its turns, and nothing else.

chat_templates holds templates that render what the families' own ones render, refusals included.
"""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from hgsp_core.checkpoint.load import load_tokenizer
from hgsp_core.recover.chats import NOT_CERTAIN, NOT_MARKED, NOT_SHOWN, ChatTemplate
from hgsp_core.recover.errors import RecoverError
from hgsp_core.recover.records import Records
from hgsp_core.recover.rows import BEYOND, IGNORED, chat_tokens, make_rows
from tests.helpers.command import MODEL
from tests.helpers.tokenizers_of import KINDS

TEMPLATES = {
    path.stem: path.read_text(encoding="utf-8").removesuffix("\n")
    for path in Path(__file__).parent.glob("chat_templates/*.jinja")
}
#: the prompt begins a thought, so the answer to the last question goes on with it
TEMPLATES["qwen3-thinking"] = TEMPLATES["qwen3"].replace(
    "'<|im_start|>assistant\\n' }}\n    {%- if en", "'<|im_start|>assistant\\n<think>\\n' }}\n    {%- if en"
)
#: as it was first published: it asks for an answer at the end of every chat
TEMPLATES["llama3-always"] = (
    TEMPLATES["llama3"].replace("{% if add_generation_prompt %}", "").removesuffix("{% endif %}")
)
TEMPLATES["chatml-always"] = (
    TEMPLATES["chatml"].replace("{% if add_generation_prompt %}", "").removesuffix("{% endif %}")
)
#: without special tokens in the tokenizer
PLAIN = ("vicuna",)
ENDS = {"chatml": "<|im_end|>", "qwen": "<|im_end|>", "smollm": "<|im_end|>", "llama3": "<|eot_id|>", "deepseek": "<｜end▁of▁sentence｜>",
        "phi3": "<|endoftext|>", "generation": "<|im_end|>", "gemma": "<eos>"}  # fmt: skip
SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "<bos>", "<eos>", "<start_of_turn>",
    "<end_of_turn>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<|system|>", "<|user|>",
    "<|assistant|>", "<|end|>",
]  # fmt: skip
BEGINS = {"llama3": "<|begin_of_text|>", "gemma": "<bos>", "deepseek": "<｜begin▁of▁sentence｜>"}


def dressed(tokenizer, family):
    """The tokenizer with the template and the special tokens of a family."""

    def of(table, default):
        return next((token for start, token in table.items() if family.startswith(start)), default)

    if family not in PLAIN:
        tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
        tokenizer.bos_token, tokenizer.eos_token = of(BEGINS, "<s>"), of(ENDS, "</s>")
    tokenizer.chat_template = TEMPLATES[family]
    return tokenizer


def bytes_tokenizer(family):
    """One token for each byte, so that no token spans a border."""
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return dressed(PreTrainedTokenizerFast(tokenizer_object=tokenizer), family)


def chat(*said):
    """Messages from texts "role: content"."""
    return {"messages": [dict(zip(("role", "content"), text.split(": ", 1), strict=True)) for text in said]}


def learned(record, tokenizer):
    """The texts that are learned, one for each run of tokens."""
    ids, labels, _ = chat_tokens(ChatTemplate(tokenizer, "x").read(record), tokenizer, 10_000)
    assert all(label in (token, IGNORED) for token, label in zip(ids, labels, strict=True))
    assert len(ids) == len(labels)
    runs, last = [], None
    for at, label in enumerate(labels):
        if label != IGNORED:
            runs = runs if last == at - 1 else [*runs, []]
            runs[-1].append(label)
            last = at
    return [tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs]


PLAIN_CHAT = chat("user: Is it?", "assistant: Yes, it is.", "user: Sure?", "assistant: No.")
SYSTEM_CHAT = chat(
    "system: Be short.", "user: Is it?", "assistant: Yes, it is.", "user: Sure?", "assistant: No.", "user: Why?"
)
QUOTES = chat("user: Say 'Yes, it is.'\nassistant", "assistant: Yes, it is.", "user: Yes, it is. No.", "assistant: No.")
SPACES = chat("user:  Is it? \n", "assistant: \n Yes, it is. \n", "user: \tSure?", "assistant: No. ")
FIRST = chat("assistant: Hello!", "user: Is it?", "assistant: Yes.")
NO_USER = chat("system: Be short.", "assistant: Hello!")
TWICE = chat("user: Is it?", "assistant: Yes, it is.", "assistant: No.")
THOUGHTS = chat(
    "user: 1+1?",
    "assistant: <think>\nOne more.\n</think>\n\nTwo.",
    "user: 2+1?",
    "assistant: <think>\nTwo and one.\n</think>\n\nThree.",
)
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "look", "arguments": {"at": "<b>"}}}
TOOLS = {
    "messages": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "Sun", "tool_call_id": "abcdefghi", "name": "look"},
        {"role": "assistant", "content": "It is sunny."},
    ]
}
TOOLS_AND_TEXT = {
    "messages": [TOOLS["messages"][0], {**TOOLS["messages"][1], "content": "Let me look."}, *TOOLS["messages"][2:]]
}
SAID = '<tool_call>\n{"name": "look", "arguments": {"at": "<b>"}}\n</tool_call><|im_end|>\n'
YES_NO = ["Yes, it is.{}", "No.{}"]


def closed(texts, closing):
    return [text.format(closing) for text in texts]


CASES = [
    *(
        (family, record, closed(YES_NO, closing))
        for family, closing in {
            "chatml": "<|im_end|>\n", "qwen2.5": "<|im_end|>\n", "smollm2": "<|im_end|>\n", "llama3": "<|eot_id|>",
            "llama3-always": "<|eot_id|>", "llama3.1": "<|eot_id|>", "chatml-always": "<|im_end|>\n", "generation": "<|im_end|>",
        }.items()
        for record in (PLAIN_CHAT, SYSTEM_CHAT, QUOTES)
    ),
    *(("gemma", record, closed(YES_NO, "<end_of_turn>\n")) for record in (PLAIN_CHAT, QUOTES)),
    *(("mistral", record, [" Yes, it is.</s>", " No.</s>"]) for record in (PLAIN_CHAT, SYSTEM_CHAT, QUOTES)),
    *(("llama2", record, [" Yes, it is. </s>", " No. </s>"]) for record in (PLAIN_CHAT, SYSTEM_CHAT, QUOTES)),
    *(("deepseek-r1", record, closed(YES_NO, "<｜end▁of▁sentence｜>")) for record in (PLAIN_CHAT, SYSTEM_CHAT, QUOTES)),
    *(("phi3", record, closed(YES_NO, "<|end|>\n")) for record in (PLAIN_CHAT, SYSTEM_CHAT, QUOTES)),
    *(("vicuna", record, [" Yes, it is.\n", " No.\n"]) for record in (PLAIN_CHAT, SYSTEM_CHAT, QUOTES)),
    ("qwen3", PLAIN_CHAT, ["Yes, it is.<|im_end|>\n", "<think>\n\n</think>\n\nNo.<|im_end|>\n"]),
    (
        "qwen3", chat("user: 1?", "assistant: <think>A</think>B", "user: <tool_response>\nC\n</tool_response>", "assistant: D"),
        ["<think>\nA\n</think>\n\nB<|im_end|>\n", "<think>\n\n</think>\n\nD<|im_end|>\n"],
    ),
    ("qwen3", SYSTEM_CHAT, closed(YES_NO, "<|im_end|>\n")),
    ("qwen3", THOUGHTS, ["Two.<|im_end|>\n", "<think>\nTwo and one.\n</think>\n\nThree.<|im_end|>\n"]),
    ("qwen3-thinking", THOUGHTS, ["Two.<|im_end|>\n", "Two and one.\n</think>\n\nThree.<|im_end|>\n"]),
    ("deepseek-r1", THOUGHTS, ["\n\nTwo.<｜end▁of▁sentence｜>", "\n\nThree.<｜end▁of▁sentence｜>"]),
    ("qwen2.5", THOUGHTS, [m["content"] + "<|im_end|>\n" for m in THOUGHTS["messages"][1::2]]),
    ("chatml", SPACES, ["\n Yes, it is. \n<|im_end|>\n", "No. <|im_end|>\n"]),
    ("llama3", SPACES, ["Yes, it is.<|eot_id|>", "No.<|eot_id|>"]),
    ("mistral", SPACES, [" Yes, it is.</s>", " No.</s>"]),
    ("gemma", SPACES, ["Yes, it is.<end_of_turn>\n", "No.<end_of_turn>\n"]),
    ("vicuna", SPACES, [" \n Yes, it is. \n\n", " No. \n"]),
    ("generation", SPACES, ["\n Yes, it is. \n<|im_end|>", "No. <|im_end|>"]),
    *((family, FIRST, ["Hello!<|im_end|>\n", "Yes.<|im_end|>\n"]) for family in ("chatml", "qwen2.5", "smollm2", "chatml-always")),
    ("qwen3", FIRST, ["Hello!<|im_end|>\n", "<think>\n\n</think>\n\nYes.<|im_end|>\n"]),
    ("llama3", FIRST, ["Hello!<|eot_id|>", "Yes.<|eot_id|>"]),
    ("llama3.1", FIRST, ["Hello!<|eot_id|>", "Yes.<|eot_id|>"]),
    ("deepseek-r1", FIRST, ["Hello!<｜end▁of▁sentence｜>", "Yes.<｜end▁of▁sentence｜>"]),
    ("phi3", FIRST, ["Hello!<|end|>\n", "Yes.<|end|>\n"]),
    ("vicuna", FIRST, [" Hello!\n", " Yes.\n"]),
    *((family, NO_USER, ["Hello!<|im_end|>\n"]) for family in ("chatml", "qwen2.5", "qwen3", "smollm2")),
    ("llama3.1", NO_USER, ["Hello!<|eot_id|>"]),
    ("deepseek-r1", NO_USER, ["Hello!<｜end▁of▁sentence｜>"]),
    *((family, TWICE, closed(YES_NO, "<|im_end|>\n")) for family in ("chatml", "qwen2.5", "smollm2")),
    ("llama3", TWICE, closed(YES_NO, "<|eot_id|>")),
    ("deepseek-r1", TWICE, closed(YES_NO, "<｜end▁of▁sentence｜>")),
    ("chatml", chat("user: Quiet!", "assistant: ", "user: ?", "assistant: No."), ["<|im_end|>\n", "No.<|im_end|>\n"]),
    ("qwen2.5", TOOLS, [SAID, "It is sunny.<|im_end|>\n"]),
    ("qwen2.5", TOOLS_AND_TEXT, ["Let me look.\n" + SAID, "It is sunny.<|im_end|>\n"]),
    ("qwen3", TOOLS, [SAID, "<think>\n\n</think>\n\nIt is sunny.<|im_end|>\n"]),
    ("qwen3", TOOLS_AND_TEXT, ["Let me look.\n" + SAID, "<think>\n\n</think>\n\nIt is sunny.<|im_end|>\n"]),
    ("llama3.1", TOOLS, ['{"name": "look", "parameters": {"at": "<b>"}}<|eot_id|>', "It is sunny.<|eot_id|>"]),
    (
        "mistral", TOOLS,
        ['[TOOL_CALLS] [{"name": "look", "arguments": {"at": "<b>"}, "id": "abcdefghi"}]</s>', " It is sunny.</s>"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("family", "record", "expected"), CASES)
def test_what_the_template_shows_of_the_assistants_turns_is_learned_and_nothing_else(family, record, expected):
    tokenizer = bytes_tokenizer(family)
    assert learned(record, tokenizer) == expected
    assert not ChatTemplate(tokenizer, "x").read(record).missing


def chatml(said, system=""):
    if system and said[0][0] != "system":
        said = [("system", system), *said]
    for role, content in said:
        yield f"<|im_start|>{role}\n", False
        yield f"{content}<|im_end|>\n", role == "assistant"


def qwen3(said):
    def asks(role, content):
        return role == "user" and not (content.startswith("<tool_response>") and content.endswith("</tool_response>"))

    last = max((i for i, turn in enumerate(said) if asks(*turn)), default=len(said) - 1)
    for i, (role, content) in enumerate(said):
        yield f"<|im_start|>{role}\n", False
        if role != "assistant":
            yield f"{content}<|im_end|>\n", False
            continue
        thought = ""
        if "</think>" in content:
            thought = content.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n").strip("\n")
            content = content.split("</think>")[-1].lstrip("\n")
        if i > last and (i == len(said) - 1 or thought):
            content = f"<think>\n{thought}\n</think>\n\n{content.lstrip(chr(10))}"
        yield f"{content}<|im_end|>\n", True


def llama3(said, always=False):
    yield "<|begin_of_text|>", False
    for role, content in said:
        yield f"<|start_header_id|>{role}<|end_header_id|>\n\n", False
        yield f"{content.strip()}<|eot_id|>", role == "assistant"
    yield "<|start_header_id|>assistant<|end_header_id|>\n\n" * always, False


def gemma(said):
    yield "<bos>", False
    for role, content in said:
        yield f"<start_of_turn>{'model' if role == 'assistant' else role}\n", False
        yield f"{content.strip()}<end_of_turn>\n", role == "assistant"


def mistral(said):
    yield "<s>", False
    for role, content in said:
        yield (f" {content.strip()}</s>", True) if role == "assistant" else (f"[INST] {content}[/INST]", False)


def llama2(said):
    for role, content in said:
        yield (
            (f" {content.strip()} </s>", True)
            if role == "assistant"
            else (f"<s>[INST] {content.strip()} [/INST]", False)
        )


def deepseek(said):
    yield "<｜begin▁of▁sentence｜>", False
    for role, content in said:
        yield f"<｜{role.title()}｜>", False
        if role == "user":
            yield content, False
            continue
        content = content.split("</think>")[-1]
        given = "<think>\n" * content.startswith("<think>\n")  # the prompt has it
        yield given, False
        yield f"{content.removeprefix(given)}<｜end▁of▁sentence｜>", True


def phi3(said):
    for role, content in said:
        yield f"<|{role}|>\n", False
        yield f"{content}<|end|>\n", role == "assistant"
    yield "<|endoftext|>", False


def vicuna(said):
    for role, content in said:
        yield f"{role.upper()}:", False
        yield f" {content}\n", role == "assistant"


def generation(said):
    for role, content in said:
        yield f"<|im_start|>{role}\n", False
        yield f"{content}<|im_end|>", role == "assistant"
        yield "\n", False


#: in short, what some templates do at the borders of a turn -> a chat's two turns
BORDERS = {
    "another end for the last turn": (
        "{% for m in messages %}<|user|>{{ m.role }}<s>{{ m.content }}{% if m.role == 'assistant' and loop.last %}</s>{% else %}<|end|>"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|user|>assistant{% endif %}",
        ["<s>Yes, it is.<|end|>", "<s>No.</s>"],
    ),
    "no end": (
        "<bos>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        ["Yes, it is.", "No."],
    ),
    "two special tokens at the end": (
        "{% for m in messages %}<s><|{{ m.role }}|>{{ m.content }}<|end|><eos>{% endfor %}"
        "{% if add_generation_prompt %}<s><|assistant|>{% endif %}",
        ["Yes, it is.<|end|><eos>", "No.<|end|><eos>"],
    ),
    "no generation prompt": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
        ["Yes, it is.<|im_end|>\n", "No.<|im_end|>\n"],
    ),
    "a line end between turns": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% if not loop.last %}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}\n<|im_start|>assistant\n{% endif %}",
        ["Yes, it is.<|im_end|>", "No.<|im_end|>"],
    ),
    "a prompt behind a question only": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt and messages[-1].role == 'user' %}<|im_start|>assistant\n{% endif %}",
        ["Yes, it is.<|im_end|>\n", "No.<|im_end|>\n"],
    ),
    "an end of text behind the chat": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ eos_token }}",
        [" Yes, it is.\n", " No.\n<|im_end|>"],
    ),
    "an end before the answer": (
        "<s>{% for m in messages %}{% if m.role == 'user' %}Human: {{ m.content }}\n\nAssistant: </s>"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}",
        ["Yes, it is.</s>", "No.</s>"],
    ),
}


@pytest.mark.parametrize("name", BORDERS)
def test_a_turn_ends_as_the_template_ends_it_there(name):
    tokenizer = bytes_tokenizer("chatml")
    tokenizer.chat_template, expected = BORDERS[name]
    assert learned(PLAIN_CHAT, tokenizer) == expected
    unfinished = {"messages": PLAIN_CHAT["messages"][:3]}
    assert learned(unfinished, tokenizer) == expected[:1]


QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
#: family -> (what its template writes, in pieces that are learned or not; whether the roles must alternate)
WRITERS = {
    "chatml": (chatml, False), "qwen2.5": (lambda said: chatml(said, QWEN), False), "qwen3": (qwen3, False),
    "llama3": (llama3, False), "llama3-always": (lambda said: llama3(said, True), False), "gemma": (gemma, True),
    "mistral": (mistral, True), "llama2": (llama2, True), "deepseek-r1": (deepseek, False), "phi3": (phi3, False),
    "vicuna": (vicuna, False), "generation": (generation, False),
}  # fmt: skip
TOKENIZERS = {family: bytes_tokenizer(family) for family in WRITERS}
#: what is in the way: tags, marks of templates, spaces, letters of private use, letters of several bytes
PIECES = [
    "Yes", "no", " ", "\n", "<think>", "</think>", "<tool_response>", "</tool_response>", "<|im_end|>", "<|im_start|>assistant\n",
    "ASSISTANT:", "[/INST]", "</s>", "<|eot_id|>", "\U000f0000", "\U000f0001", "é", "👩", "{{ x }}", "{% generation %}",
]  # fmt: skip
CONTENTS = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)


@pytest.mark.parametrize("family", WRITERS)
@settings(max_examples=60, deadline=None)
@given(
    first=st.sampled_from(["user", "assistant"]), contents=st.lists(CONTENTS, min_size=2, max_size=6), data=st.data()
)
def test_whatever_is_said_only_the_assistants_turns_and_their_ends_are_learned(family, first, contents, data):
    writer, alternating = WRITERS[family]
    if alternating:
        said = list(zip(["user", "assistant"] * 3, contents, strict=False))
    else:
        roles = data.draw(
            st.lists(st.sampled_from(["user", "assistant"]), min_size=len(contents) - 1, max_size=len(contents) - 1)
        )
        said = list(zip([first, *roles], contents, strict=True))
    pieces = list(writer(said))
    tokenizer, record = TOKENIZERS[family], {"messages": [{"role": role, "content": content} for role, content in said]}
    spoken = ChatTemplate(tokenizer, "x").read(record)
    assert spoken.text == "".join(text for text, _ in pieces)
    assert [spoken.text[start:end] for start, end in spoken.parts] == [text for text, wanted in pieces if wanted]
    assert "".join(learned(record, tokenizer)) == "".join(text for text, wanted in pieces if wanted)
    assert not spoken.missing


def test_a_turn_that_is_not_learned_is_told_with_its_reason():
    hides = "{% for m in messages %}{% if m.role == 'user' or loop.last %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    twice = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}{{ messages[1].content }}"
    shouts = "{% for m in messages %}{% if m.content[-1:] in '.?' %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    half = TEMPLATES["generation"].replace(
        "{%- if message.role == 'assistant' %}", "{%- if message.role == 'assistant' and loop.last %}"
    )
    for template, missing in {
        hides: {1: NOT_SHOWN}, twice: {1: NOT_CERTAIN}, shouts: {1: NOT_CERTAIN, 3: NOT_CERTAIN}, half: {1: NOT_MARKED},
    }.items():  # fmt: skip
        tokenizer = bytes_tokenizer("chatml")
        tokenizer.chat_template = template
        spoken = ChatTemplate(tokenizer, "x").read(PLAIN_CHAT)
        assert spoken.missing == missing
        assert len(spoken.parts) == 2 - len(missing)
        made = make_rows(Records("x", "chat", (PLAIN_CHAT, PLAIN_CHAT)), tokenizer, None, 512)
        assert made.turns == 4
        assert len(made.rows) == (0 if len(missing) == 2 else 2)
        first = min(missing)
        why = missing[first]
        assert made.notes[0].startswith(
            f"{2 * len(missing)} of 4 turns of the assistant are not learned: {why} (record 1, message 2; "
        )
    tokenizer.chat_template = TEMPLATES["chatml"]
    made = make_rows(Records("x", "chat", (PLAIN_CHAT,) * 5), tokenizer, None, 40)
    assert len(made.rows) == 5
    assert all(len(row.ids) == 40 for row in made.rows)
    assert made.notes == [
        f"5 of 10 turns of the assistant are not learned: {BEYOND} "
        "(record 1, message 4; record 2, message 4; record 3, message 4 and 2 more)."
    ]


def test_all_records_that_a_template_refuses_are_named_at_once_with_its_own_words():
    records = Records("chats.jsonl", "chat", (PLAIN_CHAT, FIRST, PLAIN_CHAT, TWICE))
    message = re.escape(
        "refuses 2 of 4 record(s) of 'chats.jsonl', records 2, 4, and says "
        '"Conversation roles must alternate user/assistant/user/assistant/...". Remove'
    )
    with pytest.raises(RecoverError, match=message):
        make_rows(records, bytes_tokenizer("gemma"), None, 512)
    with pytest.raises(
        RecoverError, match=r"refuses 1 of 1 record\(s\) of 'x', record 1, and says .System role not supported.. Remove"
    ):
        make_rows(Records("x", "chat", (SYSTEM_CHAT,)), bytes_tokenizer("gemma"), None, 512)


class Letters(PreTrainedTokenizer):
    """A tokenizer in plain Python, which knows no offsets."""

    vocab_size = 128

    def get_vocab(self):
        return {chr(i): i for i in range(128)}

    def _tokenize(self, text):
        return list(text)

    def _convert_token_to_id(self, token):
        return ord(token)


def test_a_tokenizer_that_does_not_know_which_text_a_token_stands_for_is_refused():
    tokenizer = Letters(chat_template=TEMPLATES["chatml"])
    with pytest.raises(RecoverError, match="tokenizer \\(Letters\\) cannot map tokens to text"):
        make_rows(Records("x", "chat", (PLAIN_CHAT,)), tokenizer, None, 512)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "default"])
@pytest.mark.parametrize("family", ["generation", "chatml", "vicuna", "mistral"])
def test_a_token_is_learned_if_any_of_its_text_is_the_assistants(kind, family):
    """By the bytes of each token, where tokens cross the borders and single letters are several tokens."""
    tokenizer = dressed(KINDS[kind](), family)
    for record in (PLAIN_CHAT, SPACES, chat("user: 日本", "assistant:  👩\n\n  é 👩", "user: x", "assistant: ")):
        spoken = ChatTemplate(tokenizer, "x").read(record)
        parts = [[len(spoken.text[:at].encode()) for at in part] for part in spoken.parts]
        ids, labels, _ = chat_tokens(spoken, tokenizer, 10_000)
        at = 0
        for token, label in zip(ids, labels, strict=True):
            letters = tokenizer.convert_ids_to_tokens(token)
            end = at + len(letters.encode() if letters in SPECIAL else letters)
            assert label == (token if any(start < end and at < stop for start, stop in parts) else IGNORED)
            at = end
        assert at == len(spoken.text.encode())


def test_the_space_that_sentencepiece_puts_before_an_answer_is_learned():
    tokenizer = dressed(KINDS["default"](), "mistral")
    ids, labels, _ = chat_tokens(ChatTemplate(tokenizer, "x").read(PLAIN_CHAT), tokenizer, 10_000)
    tokens, speaks = tokenizer.convert_ids_to_tokens(ids), False
    for token, label in zip(tokens, labels, strict=True):
        assert (label != IGNORED) == speaks
        speaks = token == "[/INST]" or (speaks and token != "</s>")
    assert not speaks
    assert tokens.count("[/INST]") == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_tokens_of_a_long_chat_are_those_of_all_of_it(kind):
    tokenizer = dressed(KINDS[kind](), "chatml")
    record = chat("user: Is it?", "assistant: " + "Yes, it is. 👩 <|im_end|> No!" * 40)
    spoken = ChatTemplate(tokenizer, "x").read(record)
    for count in (1, 5, 60):
        ids, labels, end = chat_tokens(spoken, tokenizer, count)
        assert ids == tokenizer(spoken.text, add_special_tokens=False)["input_ids"][:count]
        assert len(labels) == count
        assert labels == chat_tokens(spoken, tokenizer, 10_000)[1][:count]
        assert end <= len(spoken.text)


def test_a_template_is_given_the_tools_of_a_record_and_thoughts_of_their_own():
    tokenizer = bytes_tokenizer("qwen3")
    record = {
        "messages": [
            THOUGHTS["messages"][0],
            {"role": "assistant", "content": "Two.", "reasoning_content": "One more."},
        ]
    }
    assert learned(record, tokenizer) == ["<think>\nOne more.\n</think>\n\nTwo.<|im_end|>\n"]
    tokenizer.chat_template = "{% for t in tools %}{{ t.name }}{% endfor %}" + TEMPLATES["qwen3"]
    record["tools"] = [{"name": "look"}, {"name": "find"}]
    assert ChatTemplate(tokenizer, "x").read(record).text.startswith("lookfind<|im_start|>user")
    assert learned(record, tokenizer) == ["<think>\nOne more.\n</think>\n\nTwo.<|im_end|>\n"]


def test_marks_of_the_template_give_what_transformers_itself_reads_from_them():
    for kind in ("qwen2", "llama-bpe"):
        tokenizer = dressed(KINDS[kind](), "generation")
        for record in (PLAIN_CHAT, SYSTEM_CHAT, QUOTES, SPACES, FIRST, TWICE):
            theirs = tokenizer.apply_chat_template(
                record["messages"], return_dict=True, return_assistant_tokens_mask=True
            )
            ids, labels, _ = chat_tokens(ChatTemplate(tokenizer, "x").read(record), tokenizer, 10_000)
            assert ids == theirs["input_ids"]
            assert [int(label != IGNORED) for label in labels] == theirs["assistant_masks"]


def test_chats_of_the_demo_model_are_learned_from_its_own_tokenizer(tmp_path):
    tokenizer = load_tokenizer(MODEL)
    tokenizer.chat_template = TEMPLATES["qwen3"]
    assert (
        "".join(learned(THOUGHTS, tokenizer)) == "Two.<|im_end|>\n<think>\nTwo and one.\n</think>\n\nThree.<|im_end|>\n"
    )
