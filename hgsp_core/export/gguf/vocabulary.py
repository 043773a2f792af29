"""A tokenizer as llama.cpp holds it, or the reason why llama.cpp would give other token ids.

llama.cpp knows kinds of tokenizers, not rules: a byte-level BPE is one of a list of pre-tokenizers (`tokenizer.ggml.pre`),
which split text by regular expressions of their own. So a tokenizer is matched by what it does: its tokenizer.json must be
one of the forms below. What is written then agrees token by token, except where `notes` says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from hgsp_core.export.gguf.errors import GgufError

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

#: kinds of tokens (gguf.TokenType)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

SPLIT_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLIT_QWEN2 = SPLIT_LLAMA3.replace("{1,3}", "")  # each digit on its own
#: (how text is split, whether a whole word in the vocabulary skips the merges) -> tokenizer.ggml.pre
_PRE: Mapping[tuple[tuple[str, ...] | str | None, bool], str] = {
    (("ByteLevel",), False): "gpt-2",
    (("Digits", "ByteLevel"), False): "smollm",
    (SPLIT_LLAMA3, True): "llama-bpe",
    (SPLIT_LLAMA3, False): "smaug-bpe",
    (SPLIT_QWEN2, False): "qwen2",
}
_SPACE = "▁"
#: part of SentencePiece's merges that may be odd
_FEW = 1e-3
#: score of tokens that no merge makes: below all others
_LOWEST = -1e9
_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "mask")


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp must be told. Lists are by token id; `scores` of SentencePiece, `merges` of byte-level BPE."""

    model: str
    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    special: Mapping[str, int]
    adds_bos: bool
    adds_eos: bool
    space_prefix: bool
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    template: str | Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()

    def describe(self, writer: GGUFWriter) -> None:
        """Write the tokenizer."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.kinds))
        if self.scores:
            writer.add_token_scores(list(self.scores))
        if self.merges:
            writer.add_token_merges(list(self.merges))
        for name, token in self.special.items():
            getattr(writer, f"add_{name}_token_id")(token)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        writer.add_add_space_prefix(self.space_prefix)
        if isinstance(self.template, Mapping):
            writer.add_chat_template([{"name": name, "template": text} for name, text in self.template.items()])
        elif self.template:
            writer.add_chat_template(self.template)


def vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int) -> Vocabulary:
    """The tokenizer for llama.cpp.

    Args:
        rows: of the model's embedding; tokens are filled up to as many.

    Raises:
        GgufError: a tokenizer that the library `tokenizers` does not run, or one with a rule that llama.cpp does not have;
            its token ids would differ.
    """
    import json

    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise GgufError.tokenizer(f"it is a {type(tokenizer).__name__}, which has no tokenizer.json")
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    model, added = rules["model"], {token["id"]: token for token in rules["added_tokens"]}
    _refuse_stripping(added.values())
    if model["type"] == "BPE" and not model.get("byte_fallback"):
        specific = _byte_level(rules)
    elif model["type"] == "BPE":
        specific = _sentencepiece(rules)
    else:
        raise GgufError.tokenizer(f"its model is {model['type']}, which llama.cpp runs in another way")
    tokens, kinds = _tokens(model, added, rows)
    scores = specific.pop("scores", None)
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in _SPECIAL}
    adds_bos, adds_eos = _frame(tokenizer, special)
    return Vocabulary(
        tokens=tokens,
        kinds=kinds,
        special={name: token for name, token in special.items() if token is not None},
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        scores=tuple(scores.get(token, _LOWEST) for token in tokens) if scores is not None else (),
        template=tokenizer.chat_template,
        **specific,
    )


def _byte_level(rules: Mapping[str, Any]) -> dict[str, Any]:
    model, notes = rules["model"], tuple[str, ...]()
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise GgufError.tokenizer(f"its '{key}' is {model[key]!r}")
    if rules["normalizer"] is not None:
        if rules["normalizer"]["type"] != "NFC":
            raise GgufError.tokenizer(f"it normalises text by {_names(rules['normalizer'])}")
        notes = ("GGUF: llama.cpp does not compose Unicode (NFC) as this tokenizer: decomposed text gets other ids.",)
    split = _split(rules["pre_tokenizer"])
    pre = _PRE.get((split, bool(model.get("ignore_merges"))))
    if pre is None:
        rule = split or _names(rules["pre_tokenizer"])
        raise GgufError.tokenizer(f"it splits text by a rule that llama.cpp has no name for ({rule})")
    merges = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    if not merges:
        raise GgufError.tokenizer("it has no merges")
    return {"model": "gpt2", "pre": pre, "merges": merges, "space_prefix": False, "notes": notes}


def _split(pre_tokenizer: Mapping[str, Any] | None) -> tuple[str, ...] | str | None:
    """The regular expression, or the names of the steps, that split text before byte-level BPE; None for anything else."""
    if pre_tokenizer is None:
        return None
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    last = steps[-1]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if len(steps) == 1 and last["use_regex"]:
        return ("ByteLevel",)
    first = steps[0]
    if len(steps) == 2 and first["type"] == "Digits" and first["individual_digits"] and last["use_regex"]:
        return ("Digits", "ByteLevel")
    if len(steps) == 2 and first["type"] == "Split" and not last["use_regex"]:
        return first["pattern"].get("Regex") if first["behavior"] == "Isolated" and not first["invert"] else None
    return None


def _sentencepiece(rules: Mapping[str, Any]) -> dict[str, Any]:
    """SentencePiece's BPE: llama.cpp joins the neighbours whose union has the highest score, tokenizers the first merge.

    That is the same where every way to split a token into two tokens is a merge, and the merges of one token stand together,
    as in what transformers converts. Its converters have left out a merge at times: that much is told, more is refused.
    """
    model = rules["model"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    made = [token for token, _ in groupby(left + right for left, right in merges)]
    tokens, known, whole = model["vocab"], set(merges), {token["content"] for token in rules["added_tokens"]}
    splits = ((t[:i], t[i:]) for t in tokens if t not in whole for i in range(1, len(t)))
    odd = len(made) - len(set(made))
    odd += sum(left in tokens and right in tokens and (left, right) not in known for left, right in splits)
    if model.get("ignore_merges") or odd > len(merges) * _FEW:
        raise GgufError.tokenizer("its merges are not SentencePiece's, by which llama.cpp joins byte-fallback tokens")
    for byte in range(256):
        if f"<0x{byte:02X}>" not in tokens:
            raise GgufError.tokenizer(f"it falls back to bytes, and has no token <0x{byte:02X}>")
    prefix, notes = _space_prefix(rules)
    if odd:
        which = f"{odd} of {len(merges)} merges of the tokenizer are not SentencePiece's"
        notes += (f"GGUF: {which}: llama.cpp may split rare words otherwise.",)
    scores = {token: -float(rank) for rank, token in enumerate(made)}
    return {"model": "llama", "pre": "default", "scores": scores, "space_prefix": prefix, "notes": notes}


def _space_prefix(rules: Mapping[str, Any]) -> tuple[bool, tuple[str, ...]]:
    """Whether a space is put in front of a text, and where llama.cpp's way of doing so differs."""
    normalizer, pre_tokenizer = rules["normalizer"], rules["pre_tokenizer"]
    steps = normalizer.get("normalizers", [normalizer]) if normalizer else []
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    if pre_tokenizer is None and steps == [{"type": "Prepend", "prepend": _SPACE}, replace]:
        return True, ()
    if pre_tokenizer is None and steps == [replace]:
        return False, ()
    if not steps and pre_tokenizer and pre_tokenizer["type"] == "Metaspace" and pre_tokenizer["replacement"] == _SPACE:
        if pre_tokenizer.get("split") is False:
            scheme = pre_tokenizer["prepend_scheme"]
            after = " and after each special token" if scheme == "first" else ""
            note = f"GGUF: llama.cpp puts a space before a text even if it begins with one{after}; this tokenizer does not."
            return scheme != "never", (note,) if scheme != "never" else ()
    steps = [*steps, *([pre_tokenizer] if pre_tokenizer else [])]
    raise GgufError.tokenizer(f"it prepares text by {', '.join(_names(step) for step in steps) or 'nothing'}")


def _names(rule: Mapping[str, Any] | None) -> str:
    """What a rule of tokenizer.json is called, with its parts."""
    if rule is None:
        return "nothing"
    parts = rule.get("normalizers") or rule.get("pretokenizers") or []
    return " + ".join(_names(part) for part in parts) or rule["type"]


def _refuse_stripping(added: Iterable[Mapping[str, Any]]) -> None:
    for token in added:
        for key in ("lstrip", "rstrip", "single_word"):
            if token[key]:
                raise GgufError.tokenizer(f"its token {token['content']!r} is matched with '{key}'")


def _tokens(
    model: Mapping[str, Any], added: Mapping[int, Mapping[str, Any]], rows: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Text and kind of every token id below `rows`."""
    texts = {token: text for text, token in model["vocab"].items()} | {i: t["content"] for i, t in added.items()}
    if max(texts) >= rows:
        raise GgufError.too_few_rows(max(texts) + 1, rows)
    tokens, kinds = [], []
    for token in range(rows):
        text, kind = texts.get(token), NORMAL
        if text is None:
            text, kind = f"[PAD{token}]", UNUSED
        elif model.get("byte_fallback") and text == model.get("unk_token"):
            kind = UNKNOWN
        elif token in added and added[token]["special"]:
            kind = CONTROL
        elif token in added:
            text, kind = text.replace(_SPACE, " "), USER_DEFINED
        elif model.get("byte_fallback") and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            kind = BYTE
        tokens.append(text)
        kinds.append(kind)
    return tuple(tokens), tuple(kinds)


def _frame(tokenizer: PreTrainedTokenizerFast, special: dict[str, int | None]) -> tuple[bool, bool]:
    """Whether texts get a first and a last special token; those become `special`'s bos and eos."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    start = next((i for i in range(len(framed)) if framed[i : i + len(bare)] == bare), None)
    if start is None or start > 1 or len(framed) - start - len(bare) > 1:
        raise GgufError.tokenizer("it puts more than one special token before or after a text")
    adds_bos, adds_eos = start == 1, len(framed) > start + len(bare)
    if adds_bos:
        special["bos"] = framed[0]
    if adds_eos:
        special["eos"] = framed[-1]
    return adds_bos, adds_eos


def texts(vocabulary: Vocabulary) -> Sequence[str]:
    """Texts that show a difference between two tokenizers, where there is one; without those that `notes` excepts."""
    tokens = zip(vocabulary.tokens, vocabulary.kinds, strict=True)
    special = [text for text, kind in tokens if kind in (CONTROL, USER_DEFINED)][:8]
    plain = (
        "Hello world",
        "The quick brown fox, isn't it? I'LL go; we've, they'd. WE'RE",
        "two  spaces   three    four",
        "tabs\tand\n\nnewlines\r\n\r\n  end  ",
        "1234567890 3.14 1,000,000 0x1F ½ ² Ⅷ ٣",
        "ünïcödé Straße ÉCOLE naïve ﬁ ŉ",
        "日本語のテキスト 中文 한국어",
        "العربية עברית हिन्दी ไทย",
        "emoji 👩‍👩‍👧 🤦🏽 ☺️ 𝒳",
        "def f(x):\n    return x**2  # ok\n\n\nclass A_b: pass",
        "nbsp\u00a0em\u2003zero\u200bbom\ufeff",
        "aaaaaaaaaaaaaaaaaaaa ==== ---- ....",
        "a" + "!?" * 5 + "\n" + "\t" * 3,
    )
    if vocabulary.notes:
        return plain
    joined = "".join(f"{text}x {text} y" for text in special)
    return (*plain, " leading", "   more leading", "e\u0301 n\u0303", *special, joined)
