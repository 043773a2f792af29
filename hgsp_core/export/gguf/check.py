"""Proof that a GGUF file is the checkpoint that it was made from, in processes that did not write it.

`compare_tensors` reads the file again and holds every tensor against the checkpoint. `run_llama_cpp` asks llama.cpp itself
for logits and token ids, where llama-cpp-python is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hgsp_core.export.gguf.errors import GgufError
from hgsp_core.runtime.fresh import run_fresh

#: relative error of a value: f16 has 11 significant bits, bf16 8; q8_0 takes 127 steps, whose size is an f16, to the largest
#: value of a block
_STEP = {"F32": 0.0, "F16": 2.0**-11, "BF16": 2.0**-8, "Q8_0": 0.5 / 127 + 2.0**-10}

#: from fine to coarse: dtype in the file -> its name in `TOLERANCE`
COARSENESS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "Q8_0": "q8_0"}


class Answer(NamedTuple):
    """What llama.cpp makes of tokens and texts: logits [windows, tokens, vocabulary], and token ids of each text."""

    logits: np.ndarray
    ids: list[list[int]]


def llama_cpp_is_there() -> bool:
    return find_spec("llama_cpp") is not None


def run_llama_cpp(path: Path, tokens: np.ndarray, texts: Sequence[str]) -> Answer:
    """Logits of windows [windows, tokens] and token ids of texts, from llama.cpp in a process of its own.

    Raises:
        GgufError: llama.cpp does not load the file, or fails on it.
    """
    with tempfile.TemporaryDirectory(prefix="hgsp-gguf-") as work:
        inputs, outputs = Path(work, "inputs.json"), Path(work, "logits.npy")
        question = {"path": str(path.resolve()), "tokens": tokens.tolist(), "texts": list(texts)}
        inputs.write_text(json.dumps(question))
        done = _fresh("ask", inputs, outputs)
        if done.returncode:
            raise GgufError.not_loaded(path, done.stderr)
        return Answer(np.load(outputs), json.loads(done.stdout.splitlines()[-1]))


def compare_tensors(path: Path, checkpoint: Path, family: str) -> int:
    """Read the file in a process of its own and compare every tensor with the checkpoint.

    Returns:
        The number of tensors that agree to the precision of their dtypes.

    Raises:
        GgufError: one differs, or is missing or too many.
    """
    done = _fresh("tensors", path.resolve(), checkpoint.resolve(), family)
    if done.returncode:
        raise GgufError.differs(path, done.stderr)
    return int(done.stdout.splitlines()[-1])


def summary(path: Path) -> tuple[int, int, str]:
    """(tensors, context length, name in `TOLERANCE` of the coarsest dtype) of a complete file.

    Raises:
        GgufError: it ends too early, or is no GGUF file.
    """
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        arch = reader.get_field("general.architecture").contents()
        context = reader.get_field(f"{arch}.context_length").contents()
    except (ValueError, IndexError, AttributeError, OverflowError) as error:
        raise GgufError.damaged(path, error) from None
    kinds = {tensor.tensor_type.name for tensor in reader.tensors}
    return len(reader.tensors), context, COARSENESS[max(kinds, key=list(COARSENESS).index)]


def _fresh(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_fresh("-m", "hgsp_core.export.gguf.check", *arguments, HF_HUB_OFFLINE="1")


def main(arguments: Sequence[str]) -> None:
    """What runs in the other process."""
    what, *rest = arguments
    if what == "ask":
        _ask(json.loads(Path(rest[0]).read_text()), rest[1])
        return
    path, checkpoint, family = rest
    fault, compared = compare(Path(path), Path(checkpoint), family)
    if fault:
        sys.exit(fault)
    print(compared)


def _ask(question: Mapping[str, Any], outputs: str) -> None:
    from llama_cpp import Llama

    tokens, float32 = question["tokens"], 0
    length = len(tokens[0])
    cache = {"type_k": float32, "type_v": float32, "flash_attn": False}  # which otherwise round to half precision
    try:
        llama = Llama(question["path"], n_ctx=length, n_batch=length, logits_all=True, **cache)
    except ValueError as error:
        sys.exit(str(error))  # after llama.cpp's own lines
    logits = []
    for window in tokens:
        llama.reset()
        llama.eval(window)
        logits.append(llama.scores[:length].copy())
    np.save(outputs, np.stack(logits))
    print(json.dumps([llama.tokenize(text.encode(), special=True) for text in question["texts"]]))


def compare(path: Path, checkpoint: Path, family: str) -> tuple[str, int]:
    """(what is wrong or nothing, tensors that were compared)."""
    import gguf

    from hgsp_core.checkpoint.load import load_config
    from hgsp_core.checkpoint.shards import Shards
    from hgsp_core.export.gguf.network import network
    from hgsp_core.runtime.source import checkpoint_layout

    reader, shards = gguf.GGUFReader(path), Shards(checkpoint)
    expected = network(checkpoint_layout(checkpoint, family), load_config(checkpoint))
    there = {tensor.name: tensor for tensor in reader.tensors}
    names = [piece.name for piece in expected.pieces]
    if sorted(there) != sorted(names):
        return f"tensors {sorted(set(there) ^ set(names))} are only in the file or only in the checkpoint", 0
    for piece in expected.pieces:
        tensor, wanted = there[piece.name], piece.read(shards).float().numpy()
        if tuple(reversed(tensor.shape.tolist())) != wanted.shape:
            return f"'{piece.name}' has shape {tensor.shape.tolist()[::-1]}, not {list(wanted.shape)}", 0
        found = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape)
        if not _close(found, wanted, tensor.tensor_type.name):
            return f"'{piece.name}' differs by up to {np.abs(found - wanted).max():g}", 0
    return "", len(names)


def _close(found: np.ndarray, wanted: np.ndarray, kind: str) -> bool:
    """Whether every value is the wanted one within the precision of the dtype."""
    scale = np.abs(wanted)
    if kind == "Q8_0":
        scale = np.repeat(scale.reshape(-1, 32).max(1), 32).reshape(wanted.shape)
    return bool((np.abs(found - wanted) <= _STEP[kind] * scale + 2.0**-24).all() and np.isfinite(found).all())


if __name__ == "__main__":
    main(sys.argv[1:])
