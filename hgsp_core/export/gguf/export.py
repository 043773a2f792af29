"""From a checkpoint to a GGUF file that has been checked."""

from __future__ import annotations

from pathlib import Path

from hgsp_core.checkpoint.fingerprint import TOLERANCE, distance
from hgsp_core.checkpoint.load import load_config, load_tokenizer
from hgsp_core.checkpoint.shards import Shards
from hgsp_core.export.contract import ExportJob
from hgsp_core.export.gguf.check import COARSENESS, compare_tensors, llama_cpp_is_there, run_llama_cpp
from hgsp_core.export.gguf.errors import GgufError
from hgsp_core.export.gguf.network import network
from hgsp_core.export.gguf.vocabulary import texts, vocabulary
from hgsp_core.export.gguf.write import write_gguf


def export_gguf(job: ExportJob, path: Path, number_type: str) -> None:
    """Write the file and compare it with the checkpoint in other processes. `number_type`: of the matrices, one of `TYPES` (`write.py`).

    Raises:
        GgufError: GGUF cannot hold the model, the file cannot be written, or is not what it should be.
    """
    tokenizer, config = load_tokenizer(job.checkpoint), load_config(job.checkpoint)
    held, words = network(job.layout, config), vocabulary(tokenizer, config.vocab_size)
    write_gguf(path, Shards(job.checkpoint), held, words, number_type, job.progress)

    for remark in (*held.notes, *words.notes):
        job.note(remark)
    compared = compare_tensors(path, job.checkpoint, job.layout.architecture.model_type)
    done = f"GGUF: {path.name} was reloaded and its {compared} tensors compared with the checkpoint"
    if not llama_cpp_is_there():
        job.note(f"{done}; llama.cpp was not asked, as llama-cpp-python is not installed.")
        return
    asked = texts(words)
    answer = run_llama_cpp(path, job.tokens[:, : held.context], asked)
    reference = job.logits[:, : held.context].float().cpu().numpy()
    most = max(TOLERANCE[COARSENESS[number_type.upper()]], TOLERANCE[str(job.logits.dtype).removeprefix("torch.")])
    found = distance(answer.logits, reference)
    if not found <= most:
        raise GgufError.other_logits(path, found, most)
    for text, theirs in zip(asked, answer.ids, strict=True):
        if theirs != (ours := tokenizer(text)["input_ids"]):
            raise GgufError.other_ids(path, text, theirs, ours)
    job.note(
        f"{done}; llama.cpp's logits are {found:.1g} of their spread away, its token ids of {len(asked)} texts equal."
    )
