"""Training that cannot run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hgsp_core.errors import HgspError, first_few


class RecoverError(HgspError):
    """Training after pruning that cannot run as configured."""

    @classmethod
    def record(cls, name: str, number: int, fault: str, wanted: str) -> RecoverError:
        return cls(f"recover: record {number} of '{name}' {fault}. {wanted} Fix or remove that record.")

    @classmethod
    def no_format(cls, name: str, there: Sequence[str], column: str) -> RecoverError:
        return cls(
            f"recover: the records of '{name}' have the fields {', '.join(there)}: neither 'instruction' and 'output', nor 'messages', "
            f"nor '{column}'. Name the column of text with: records: {{options: {{column: NAME}}}}."
        )

    @classmethod
    def only_text(cls, name: str, wanted: str) -> RecoverError:
        return cls(
            f"recover: '{name}' is plain text, not records. Set records: {{format: text}} (or auto), or give {wanted} records."
        )

    @classmethod
    def too_few(cls, name: str, rows: int) -> RecoverError:
        return cls(
            f"recover: '{name}' gives {rows} row(s) to learn from; at least 2 are needed, one to train on and one held out. "
            "Use more data, or raise records.seq_len if answers were cut off."
        )

    @classmethod
    def nothing_to_train_on(cls) -> RecoverError:
        return cls(
            "recover: without a dataset, training uses the run's calibration windows, and there are none here. "
            "Name one: recover: {with: {dataset: NAME}}."
        )

    @classmethod
    def no_template(cls, name: str) -> RecoverError:
        return cls(
            f"recover: '{name}' holds chats, but the model's tokenizer has no chat template. Add chat_template.jinja to the model's "
            "directory, or use records in instruction/input/output form."
        )

    @classmethod
    def slow_tokenizer(cls, name: str, kind: str) -> RecoverError:
        return cls(
            f"recover: '{name}' holds chats, and the model's tokenizer ({kind}) cannot map tokens to text, so the assistant's turns "
            "cannot be located. Save it with a tokenizer.json (a fast tokenizer), or use records in instruction/input/output form."
        )

    @classmethod
    def refused(cls, name: str, records: int, refused: Sequence[int], error: Exception) -> RecoverError:
        which = f"record{'s' if len(refused) > 1 else ''} {first_few([*map(str, refused)], 5)}"
        said = " ".join(str(error).split())[:300]
        return cls(
            f"recover: the tokenizer's chat template refuses {len(refused)} of {records} record(s) of '{name}', {which}, and says "
            f'"{said}". Remove or fix them, or give the model a template that accepts them.'
        )

    @classmethod
    def batch(cls, batch: int, micro: int, processes: int) -> RecoverError:
        each = f"{processes} processes with {micro} rows each" if processes > 1 else f"parts of {micro} rows"
        return cls(
            f"recover: batch_size: {batch} rows cannot be split into {each}. Make batch_size a multiple of {micro * processes}, "
            "or change micro_batch_size."
        )

    @classmethod
    def no_teacher(cls) -> RecoverError:
        return cls("recover: distill needs the dense model. Give its directory with --dense DIR.")

    @classmethod
    def other_vocabulary(cls, teacher: Path, theirs: int | None, ours: int | None) -> RecoverError:
        return cls(
            f"recover: distill: '{teacher}' has a vocabulary of {theirs} tokens, the pruned model one of {ours}: "
            "it is not the model that was pruned. Give the original model (--dense DIR)."
        )

    @classmethod
    def no_adapter(cls, path: Path, reason: str) -> RecoverError:
        return cls(
            f"recover: adapter: '{path}' is not a LoRA adapter: {reason}. Give the directory that peft's save_pretrained wrote."
        )

    @classmethod
    def other_adapter(cls, path: Path, tensor: str, fault: str) -> RecoverError:
        return cls(
            f"recover: adapter: '{path}' was trained on another model: {tensor} {fault}. "
            "Use it on the model it was trained on, or leave `adapter` out to train a new one."
        )

    @classmethod
    def no_room(cls, needed: str, free: str, method: str) -> RecoverError:
        less = "recover: {use: lora}, " if method == "full" else ""
        return cls(
            f"recover: training needs the model in memory, at least {needed}, but only {free} are free; weights cannot be streamed "
            f"here. Use {less}model.dtype: bfloat16, distill: false, or train the result on a larger machine (hgsp finetune)."
        )

    @classmethod
    def not_finite(cls, loss: float, dtype: str) -> RecoverError:
        return cls(
            f"recover: the loss of the pruned model on the training data is {loss} in {dtype} before training: its weights or "
            "the range of that dtype are at fault. Prune again with model.dtype: float32 or bfloat16."
        )

    @classmethod
    def diverged(cls, step: int, rate: float) -> RecoverError:
        return cls(
            f"recover: the training loss is NaN or infinite in step {step}. Lower learning_rate (it is {rate:g}), "
            "or use schedule: {precision: float32}."
        )

    @classmethod
    def device(cls, device: str) -> RecoverError:
        index = device.partition(":")[2]
        return cls(
            f"recover: training in one process uses the first visible GPU, not '{device}'. "
            f"Set CUDA_VISIBLE_DEVICES={index} and device: cuda."
        )

    @classmethod
    def busy(cls, path: Path) -> RecoverError:
        return cls(f"recover: another process is running the same training ('{path}'). Wait for it to finish.")
