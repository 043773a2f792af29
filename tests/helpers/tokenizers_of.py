"""Small tokenizers of every kind that real models have, trained on a few pages.

The byte-level ones learn their merges from text that is not split at all, so that merges cross every border at which the
tokenizer splits afterwards: where another program splits otherwise, its token ids are others.
"""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hgsp_core.export.gguf.vocabulary import SPLIT_LLAMA3, SPLIT_QWEN2
from tests.helpers.command import ROOT

TEXT = """def f(x):
    return x ** 2   # squares, isn't it? I'LL say 1234567 times!
The quick brown fox; the lazy dog. We've been there, they'd go, I'm sure.
日本語のテキスト, العربية, ünïcödé Straße ÉCOLE, 👩‍👩‍👧 emoji

    Numbers: 3.14159, 1,000,000 and 2024-06-01.   Spaces    and\ttabs.
"""
_PAGES = ROOT / "hgsp_core" / "texts" / "pydoc" / "evaluation.txt"
#: chunks that hold line ends
CHUNKS = [(TEXT * 8 + _PAGES.read_text(encoding="utf-8")[:30_000])[i : i + 250] for i in range(0, 30_000, 250)]


def byte_level(split=None, ignore_merges=False, nfc=False, bos=False, size=1200):
    """GPT-2's kind: `split` is None for GPT-2's own rule, "digits", or a regular expression."""
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split in (None, "digits"))
    first = {"digits": pre_tokenizers.Digits(individual_digits=True)}.get(split)
    if split not in (None, "digits"):
        first = pre_tokenizers.Split(Regex(split), "isolated", invert=False)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.normalizer = normalizers.NFC() if nfc else None
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CHUNKS, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, level]) if first else level
    tokenizer.model.ignore_merges = ignore_merges
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", pair="<|endoftext|> $A $B", special_tokens=[("<|endoftext|>", 0)]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|im_end|>")
    fast.chat_template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    return fast


def sentencepiece(metaspace=False, size=1200):
    """Llama 2's kind: SentencePiece's BPE with byte fallback, as transformers converts it."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.Metaspace()
    plain.train_from_iterator(CHUNKS, trainers.BpeTrainer(vocab_size=size - 259, show_progress=False))
    pieces = sorted(plain.get_vocab(), key=plain.get_vocab().get)
    words = [piece for piece in pieces if len(piece) > 1]
    characters = [piece for piece in pieces if len(piece) == 1]
    order = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words, *characters]
    vocab = {piece: token for token, piece in enumerate(order)}
    merges = [(w[:i], w[i:]) for w in words for i in range(1, len(w)) if w[:i] in vocab and w[i:] in vocab]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.add_tokens([AddedToken("[TOOL]", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


KINDS = {
    "gpt-2": byte_level,
    "smollm": lambda: byte_level("digits"),
    "llama-bpe": lambda: byte_level(SPLIT_LLAMA3, ignore_merges=True, bos=True),
    "smaug-bpe": lambda: byte_level(SPLIT_LLAMA3),
    "qwen2": lambda: byte_level(SPLIT_QWEN2, nfc=True),
    "default": sentencepiece,
}
