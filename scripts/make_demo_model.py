"""Make the demonstration model ``models/pydoc-llama`` and its texts, offline.

What:      a byte-level BPE tokenizer (1024 tokens) and a 2.4-million-parameter
           Llama with grouped-query attention, plus a calibration text and an
           evaluation text in ``hgsp_core/texts/pydoc/``.
From what: text that every Python installation carries: the language reference
           topics in ``pydoc_data.topics`` and the docstrings of the standard
           library's source files, which are parsed and never imported.
How long:  measured 54 minutes on two cores that other programs also kept busy;
           ``--steps 60`` makes a rough but loadable model in a minute or two.
Result:    held-out perplexity 21.8, against 386.9 of a unigram model on the same
           tokens; both are printed at the end and written into the model card.

Whole documents (a topic, or one source file's docstrings) go to the training,
the validation or the evaluation split.  Validation chooses the checkpoint, so
the evaluation text takes part in no choice.  The run is seeded, but the corpus
depends on the Python version and the weights on the floating-point library.
"""

import argparse
import ast
import copy
import hashlib
import json
import math
import platform
import random
import re
import shlex
import shutil
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path
from pydoc_data.topics import topics

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
DATA_DIR = ROOT / "hgsp_core" / "texts" / "pydoc"
MODEL_DIR = ROOT / "models" / "pydoc-llama"

# Third-party code, tests, demos and the editor are no documentation of the library.
SKIPPED_DIRS = {"site-packages", "test", "tests", "turtledemo", "idlelib", "pydoc_data"}
MIN_DOCUMENT_CHARS = 200
# One document above this size would dominate a held-out split, so it trains.
MAX_HELD_OUT_CHARS = 30_000
# Shorter paragraphs ("For example:") may repeat; longer repeats are copies.
MIN_DEDUPED_CHARS = 40
SHINGLE_WORDS = 8

CALIBRATION_CHARS = 400_000
EVALUATION_CHARS = 200_000

END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 1024
TRAIN_WINDOW = 256
EVAL_WINDOW = 128
MAX_MODEL_BYTES = 10_000_000


# ---------------------------------------------------------------- corpus


def docstrings(source):
    """Return the docstrings of one parsed source file in source order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in old modules
        tree = ast.parse(source)
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def raw_documents():
    """Yield (name, text): every topic, then every library source file."""
    for name in sorted(topics):
        yield f"topic:{name}", topics[name]
    stdlib = Path(sysconfig.get_path("stdlib"))
    for path in sorted(stdlib.rglob("*.py")):
        relative = path.relative_to(stdlib)
        if SKIPPED_DIRS.isdisjoint(relative.parts):
            yield relative.as_posix(), "\n\n".join(docstrings(path.read_bytes()))


def unique_documents():
    """Return [(name, text)] in which no long paragraph occurs twice."""
    seen, documents = set(), []
    for name, text in raw_documents():
        kept = []
        for paragraph in re.split(r"\n\s*\n", text):
            paragraph = "\n".join(line.rstrip() for line in paragraph.expandtabs().split("\n"))
            key = " ".join(paragraph.split()).lower()
            if not key or key in seen:
                continue
            if len(key) >= MIN_DEDUPED_CHARS:
                seen.add(key)
            kept.append(paragraph.strip("\n"))
        document = "\n\n".join(kept)
        if len(document) >= MIN_DOCUMENT_CHARS:
            documents.append((name, document))
    return documents


def split_of(name, document):
    """Assign a document to a split by a hash of its name, large ones to training."""
    bucket = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100
    if bucket >= 18 or len(document) > MAX_HELD_OUT_CHARS:
        return "train"
    return "evaluation" if bucket < 12 else "validation"


def shingles(text):
    """Return the set of word runs by which near-copies are recognised."""
    words = text.lower().split()
    last = max(1, len(words) - SHINGLE_WORDS + 1)
    return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(last)}


def drop_near_copies(document, known):
    """Drop the long paragraphs of which over a third occurs in `known`."""
    kept = []
    for paragraph in document.split("\n\n"):
        own = shingles(paragraph)
        if len(paragraph) < MIN_DEDUPED_CHARS or len(own & known) <= len(own) / 3:
            kept.append(paragraph)
    return "\n\n".join(kept)


def build_splits():
    """Return {split: [text]}; held-out texts share no paragraph with training."""
    splits = {"train": [], "validation": [], "evaluation": []}
    for name, document in unique_documents():
        splits[split_of(name, document)].append(document)
    known = set().union(*map(shingles, splits["train"]))
    for split in ("validation", "evaluation"):
        cleaned = [drop_near_copies(document, known) for document in splits[split]]
        splits[split] = [text for text in cleaned if len(text) >= MIN_DOCUMENT_CHARS]
    return splits


def sample(documents, max_chars, seed):
    """Join randomly chosen whole documents up to about `max_chars`."""
    chosen, size = [], 0
    for document in random.Random(seed).sample(documents, len(documents)):
        if size + len(document) <= max_chars:
            chosen.append(document)
            size += len(document) + 2
    return "\n\n".join(chosen) + "\n"


def write_texts(splits, seed):
    """Write the packaged calibration and evaluation texts; return the latter."""
    calibration = sample(splits["train"], CALIBRATION_CHARS, seed)
    evaluation = sample(splits["evaluation"], EVALUATION_CHARS, seed)
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    (DATA_DIR / "calibration.txt").write_text(calibration, encoding="utf-8", newline="\n")
    (DATA_DIR / "evaluation.txt").write_text(evaluation, encoding="utf-8", newline="\n")
    (DATA_DIR / "README.md").write_text(
        f"""# Python documentation texts

`calibration.txt` ({len(calibration):,} characters) and `evaluation.txt`
({len(evaluation):,} characters) are made by `scripts/make_demo_model.py` from
the Python {platform.python_version()} distribution: the language reference topics in
`pydoc_data.topics` and the docstrings of the standard library.  They are
copyright the Python Software Foundation and used under the PSF License Version 2
(<https://docs.python.org/3/license.html>, which also lists the notices of single
modules).  Paragraphs were selected and cleaned of trailing blanks and tabs, and
documents reordered; nothing else was changed.

A document is one topic or the docstrings of one source file.  Documents are
separated by one blank line.  Paragraphs that repeat were removed, and a hash of
the document's name then assigns each whole document to one split (documents
above {MAX_HELD_OUT_CHARS:,} characters always to training):

| split | documents | characters | use |
|---|---|---|---|
"""
        + "".join(
            f"| {name} | {len(texts)} | {sum(map(len, texts)):,} | {use} |\n"
            for (name, texts), use in zip(
                splits.items(),
                (
                    "trains `models/pydoc-llama`; `calibration.txt` is a random part",
                    "chooses the checkpoint; not packaged",
                    "`evaluation.txt`; neither trained on nor used for a choice",
                ),
                strict=True,
            )
        )
        + f"""
Held-out paragraphs of which more than a third of the {SHINGLE_WORDS}-word runs also
occurs in the training split were removed as near-copies.
""",
        encoding="utf-8",
    )
    return evaluation


# ------------------------------------------------------------- tokenizer


def train_tokenizer(texts):
    """Train a byte-level BPE tokenizer that can encode any text losslessly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer, text):
    """Return the token ids of `text` as a tensor, without special tokens."""
    # The backend is called directly: long texts are meant, not a mistake.
    return torch.tensor(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


# ----------------------------------------------------------------- model


def make_model(tokenizer):
    """Return a fresh Llama whose query width (256) differs from its hidden size."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=416,
            num_hidden_layers=6,
            num_attention_heads=16,
            num_key_value_heads=4,
            head_dim=16,
            max_position_embeddings=512,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def add_dropout(model, rate):
    """Drop residual updates in training mode; return hooks to remove later.

    Hooks keep the regularisation out of the saved configuration.
    """

    def drop(module, inputs, output):
        return torch.nn.functional.dropout(output, rate, module.training)

    return [
        projection.register_forward_hook(drop)
        for layer in model.model.layers
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj)
    ]


def eval_windows(ids):
    """Cut ids into non-overlapping windows; a last partial one stays shorter."""
    return [window for window in ids.split(EVAL_WINDOW) if len(window) > 1]


@torch.no_grad()
def perplexity(model, ids):
    """Return exp(total nll / predicted tokens); a window's first token is given."""
    model.eval()
    windows = eval_windows(ids)
    full = [window for window in windows if len(window) == EVAL_WINDOW]
    batches = [torch.stack(full[i : i + 32]) for i in range(0, len(full), 32)]
    batches += [window[None] for window in windows[len(full) :]]
    total, count = 0.0, 0
    for batch in batches:
        logits = model(input_ids=batch).logits[:, :-1]
        targets = batch[:, 1:]
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        count += targets.numel()
    return math.exp(total / count)


def unigram_perplexity(train_ids, ids):
    """Return the add-one unigram model's perplexity on the same predictions."""
    counts = torch.bincount(train_ids, minlength=VOCAB_SIZE).double() + 1
    nll = -(counts / counts.sum()).log()
    targets = torch.cat([window[1:] for window in eval_windows(ids)])
    return math.exp(nll[targets].mean().item())


def optimizer_for(model, args):
    """Return AdamW with weight decay on the matrices only."""
    parameters = list(model.parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": args.weight_decay},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=args.lr,
        betas=(0.9, 0.99),  # a slow second moment suits the small batches
        fused=True,
    )


def lr_factor(step, steps):
    """Return the warm-up and cosine factor (down to 5%) of the learning rate."""
    warmup = max(1, min(100, steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.05 + 0.475 * (1 + math.cos(math.pi * progress))


def epoch_batches(documents, batch, rng):
    """Yield batches of packed windows for ever, repacking the documents each epoch."""
    while True:
        packed = torch.cat(rng.sample(documents, len(documents)))
        # A random start moves the window borders from epoch to epoch.
        packed = packed[rng.randrange(TRAIN_WINDOW) :]
        windows = list(packed.split(TRAIN_WINDOW))[:-1]
        rng.shuffle(windows)
        for i in range(0, len(windows) - batch + 1, batch):
            yield torch.stack(windows[i : i + batch])


def train(model, documents, validation_ids, args):
    """Train and leave the best checkpoint in `model`; return facts about the run."""
    optimizer = optimizer_for(model, args)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, args.steps))
    hooks = add_dropout(model, args.dropout)
    batches = epoch_batches(documents, args.batch, random.Random(args.seed))
    best, best_step, best_state = math.inf, 0, None
    running, start = None, time.time()
    for step in range(1, args.steps + 1):
        model.train()
        batch = next(batches)
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if step % args.eval_every == 0 or step == args.steps:
            held_out = perplexity(model, validation_ids)
            speed = step * args.batch * TRAIN_WINDOW / (time.time() - start)
            print(
                f"step {step:5d}  train loss {running:.3f}  "
                f"validation perplexity {held_out:7.2f}  {speed:.0f} tokens/s",
                flush=True,
            )
            if held_out < best:
                best, best_step = held_out, step
                best_state = copy.deepcopy(model.state_dict())
    for hook in hooks:
        hook.remove()
    model.load_state_dict(best_state)
    model.eval()
    return {
        "minutes": (time.time() - start) / 60,
        "tokens": args.steps * args.batch * TRAIN_WINDOW,
        "best_step": best_step,
        "validation": best,
    }


# ---------------------------------------------------------------- saving


def model_card(facts):
    """Return the README of the model directory."""
    return """---
license: other
license_name: psf-2.0
license_link: https://docs.python.org/3/license.html
language: en
library_name: transformers
pipeline_tag: text-generation
---

# pydoc-llama

A {parameters:,}-parameter Llama for demonstrations and tests of structured
pruning: 6 layers, hidden size 192, 16 query heads and 4 key/value heads of
dimension 16, MLP width 416, tied embeddings, a byte-level BPE vocabulary of
{vocab}, context 512 (trained on windows of {window}).  It continues text in the
style of the Python documentation; what it says about Python is not reliable.

**Data and licence.**  Trained from random weights on the language reference
topics and the standard library docstrings of Python {python} ({chars:,}
characters, {train_tokens:,} tokens), copyright the Python Software Foundation,
PSF License Version 2.  See `hgsp_core/texts/pydoc/README.md` for the splits.

**Command.**  `{command}`

| measure | value |
|---|---|
| held-out perplexity, this model | {perplexity:.2f} |
| held-out perplexity, unigram model | {unigram:.2f} |
| predicted tokens | {predicted:,} |
| tokens trained on | {tokens:,} ({epochs:.1f} epochs) |
| checkpoint | step {best_step} of {steps}, validation perplexity {validation:.2f} |
| training time | {minutes:.1f} minutes, {speed:,.0f} tokens/s, {threads} CPU threads |

Protocol: `hgsp_core/texts/pydoc/evaluation.txt` tokenised as one string without
special tokens, cut into non-overlapping windows of {eval_window} tokens; a window's
first token is not predicted; perplexity is exp(total nll / predicted tokens).
The unigram model uses the training token frequencies plus one.  The checkpoint
was chosen on other held-out documents than these.
""".format(**facts)


def save(model, tokenizer, card, output):
    """Write the model directory completely, then move it into place."""
    temporary = Path(tempfile.mkdtemp())
    target = temporary / output.name
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    # The class name that both older and current transformers versions load.
    config_file = target / "tokenizer_config.json"
    config = json.loads(config_file.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config_file.write_text(json.dumps(config, indent=2) + "\n")
    (target / "README.md").write_text(card, encoding="utf-8")
    size = sum(file.stat().st_size for file in target.iterdir())
    if size > MAX_MODEL_BYTES:
        raise SystemExit(f"the model directory has {size:,} bytes, over {MAX_MODEL_BYTES:,}")
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.exists():
        output.rename(temporary / "previous")
    shutil.move(target, output)
    shutil.rmtree(temporary)
    return size


def parse_args():
    """Parse the command line; the defaults reproduce the published model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2800, help="optimizer steps [%(default)s]")
    parser.add_argument("--batch", type=int, default=8, help="windows per step [%(default)s]")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate [%(default)s]")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="[%(default)s]")
    parser.add_argument("--dropout", type=float, default=0.1, help="in training [%(default)s]")
    parser.add_argument("--eval-every", type=int, default=200, help="steps [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads [%(default)s]")
    parser.add_argument("--output", type=Path, default=MODEL_DIR, help="[models/pydoc-llama]")
    return parser.parse_args()


def main():
    """Make the texts, the tokenizer and the model, then measure what was saved."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)

    splits = build_splits()
    evaluation = write_texts(splits, args.seed)
    tokenizer = train_tokenizer(splits["train"])
    assert tokenizer.decode(encode(tokenizer, evaluation)) == evaluation

    end = torch.tensor([tokenizer.eos_token_id])
    documents = [torch.cat([encode(tokenizer, text), end]) for text in splits["train"]]
    train_ids = torch.cat(documents)
    validation_ids = encode(tokenizer, "\n\n".join(splits["validation"]))
    evaluation_ids = encode(tokenizer, evaluation)
    for name, ids in zip(splits, (train_ids, validation_ids, evaluation_ids), strict=True):
        chars = sum(map(len, splits[name]))
        print(f"{name}: {len(splits[name])} documents, {chars:,} characters, {len(ids):,} tokens")

    model = make_model(tokenizer)
    run = train(model, documents, validation_ids, args)
    facts = run | {
        "parameters": model.num_parameters(),
        "vocab": len(tokenizer),
        "window": TRAIN_WINDOW,
        "eval_window": EVAL_WINDOW,
        "python": platform.python_version(),
        "chars": sum(map(len, splits["train"])),
        "train_tokens": len(train_ids),
        "epochs": run["tokens"] / len(train_ids),
        "speed": run["tokens"] / run["minutes"] / 60,
        "threads": args.threads,
        "steps": args.steps,
        "command": shlex.join(["python", "scripts/make_demo_model.py", *sys.argv[1:]]),
        "perplexity": perplexity(model, evaluation_ids),
        "unigram": unigram_perplexity(train_ids, evaluation_ids),
        "predicted": sum(len(window) - 1 for window in eval_windows(evaluation_ids)),
    }
    size = save(model, tokenizer, model_card(facts), args.output)

    # What counts is what a user loads, so the reported number comes from there.
    saved_model = AutoModelForCausalLM.from_pretrained(args.output)
    saved_ids = encode(AutoTokenizer.from_pretrained(args.output), evaluation)
    print(f"{args.output}: {size:,} bytes, {run['minutes']:.1f} minutes of training")
    print(f"held-out perplexity, model:   {perplexity(saved_model, saved_ids):.2f}")
    print(f"held-out perplexity, unigram: {facts['unigram']:.2f}")


if __name__ == "__main__":
    main()
