"""The training of a recoverer: a pruned checkpoint in, the same checkpoint with other weights out.

The loop is transformers.Trainer's; here are the order of the rows, the loss of distillation, the held-out loss that training
is judged by, and what makes a training that was killed go on where its last checkpoint left it.

Several processes (`torchrun`, `accelerate launch`) share every batch. As the loss is summed over the learned tokens of the whole
batch before it is divided, their number and `micro_batch_size` change nothing but rounding (and which inputs dropout drops).
"""

from __future__ import annotations

import gc
import logging
import math
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from hgsp_core.checkpoint.load import load_model, load_tokenizer, require_agreement
from hgsp_core.checkpoint.read import stored_dtype, tensor_shapes, weight_bytes
from hgsp_core.checkpoint.shards import Shards
from hgsp_core.checkpoint.stored import in_files
from hgsp_core.checkpoint.write import write_checkpoint
from hgsp_core.data.run import require_rows
from hgsp_core.engine.memory import free_bytes
from hgsp_core.engine.parallel import processes, processes_here, rank
from hgsp_core.files.text import read_object
from hgsp_core.model.architecture import Architecture
from hgsp_core.recover.contract import RecoverJob
from hgsp_core.recover.errors import RecoverError
from hgsp_core.recover.losses import divergence, held_out_loss
from hgsp_core.recover.records import Records
from hgsp_core.recover.rows import BLANK, Row, batch, hold_out, make_rows, pack
from hgsp_core.recover.training_params import TrainingParams
from hgsp_core.runtime.directory import LOCK, locked
from hgsp_core.runtime.session import wait_for_all
from hgsp_core.runtime.source import checkpoint_layout

if TYPE_CHECKING:
    from peft import PeftModel

log = logging.getLogger("hgsp")

#: the argument's name, which transformers changed within version 5
_CHECKPOINTING = "activation_checkpointing"
if _CHECKPOINTING not in {field.name for field in fields(TrainingArguments)}:
    _CHECKPOINTING = "gradient_checkpointing"


class Way(Protocol):
    """What is trained, and on what (`trained.py`)."""

    @property
    def params(self) -> TrainingParams: ...

    def records(self, job: RecoverJob) -> Records: ...

    def bytes_per_parameter(self, stored: str) -> int: ...

    def attach(self, model: PreTrainedModel, job: RecoverJob) -> PreTrainedModel | PeftModel: ...

    def detach(self, model: Any) -> PreTrainedModel: ...


def train(job: RecoverJob, way: Way) -> dict[str, Any]:
    """Train and write `job.destination`; returns what happened.

    Raises:
        RecoverError: too little data or memory, a teacher of another vocabulary, a loss that is not finite.
    """
    params, records = way.params, way.records(job)
    _check_room(job, way)
    tokenizer, given = load_tokenizer(job.checkpoint), params.records
    made = make_rows(records, tokenizer, params.samples, given.seq_len)
    for note in made.notes if rank() == 0 else ():
        log.warning("Recovery: %s", note)
    if len(made.rows) < 2:
        raise RecoverError.too_few(records.name, len(made.rows))
    rows, held_out = hold_out(made.rows, given.held_out, job.seed)
    if given.packing:
        rows = pack(rows, given.seq_len)

    set_seed(job.seed)
    model, config = load_model(job.checkpoint, device=job.device)
    layout = checkpoint_layout(job.checkpoint, job.architecture.model_type if job.architecture else None)
    require_agreement(job.checkpoint, model, layout.shapes())
    require_rows(np.array([i for row in made.rows for i in row.ids]), layout.vocabulary, tokenizer, records.name)
    dense = _dense(job, params)
    teacher = _teacher(dense, job.device, config) if dense else None
    before = held_out_loss(model, held_out, params.micro_batch_size)
    if not math.isfinite(before):
        raise RecoverError.not_finite(before, str(model.dtype).removeprefix("torch."))
    with _work(job) as work, _quiet():
        model = way.attach(model, job)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        trainer = _Trainer(model, _arguments(job, params, work), rows, held_out, teacher, params.schedule.patience, job)
        trainer.train(resume_from_checkpoint=_last_checkpoint(work))
    model = way.detach(trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False))
    if rank() == 0:
        _write(model, config, layout.architecture, job)
    told = {
        "records": len(records.records) or len(made.rows),
        "rows": len(rows),
        "held_out_rows": len(held_out),
        "learned_tokens": sum(row.learned for row in rows),
        "trainable_parameters": trainable,
        "processes": processes(),
        **trainer.told(),
        **({"notes": made.notes} if made.notes else {}),
    }
    del model, teacher, trainer
    gc.collect()  # the Trainer and its callbacks hold each other
    wait_for_all()
    after = held_out_loss(load_model(job.destination, device=job.device)[0], held_out, params.micro_batch_size)
    if after > before:
        fix = "use more data or a lower learning_rate"
        log.warning("Recovery made the held-out loss worse (%.4f, before %.4f): %s.", after, before, fix)
    losses = torch.tensor([before, after], dtype=torch.float64)
    return {"held_out_perplexity": dict(zip(("before", "after"), losses.exp().tolist(), strict=True)), **told}


class _Order(Sampler[int]):
    """The rows in another seeded order each epoch, then blank rows that fill the last micro-batches of all processes."""

    def __init__(self, rows: int, multiple: int, seed: int):
        self.rows, self.length, self.seed, self.epoch = rows, -(-rows // multiple) * multiple, seed, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(self.rows, generator=generator).tolist()
        yield from [self.rows] * (self.length - self.rows)  # the index of the blank one


class _Rows(Dataset[Row]):
    """Rows by their number, as torch asks for them."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


class _Trainer(Trainer):
    """Trainer with our rows, our held-out loss and, with a teacher, the loss of distillation."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        arguments: TrainingArguments,
        rows: Sequence[Row],
        held_out: Sequence[Row],
        teacher: PreTrainedModel | None,
        patience: int | None,
        job: RecoverJob,
    ):
        micro = arguments.per_device_train_batch_size
        self.rows, self.held_out, self.teacher = _Rows([*rows, BLANK]), held_out, teacher
        self.order = _Order(len(rows), micro * processes(), arguments.seed)
        course = _Course(self.order, patience, job)
        super().__init__(model, arguments, batch, self.rows, _Rows(held_out), callbacks=[course])
        self.remove_callback(PrinterCallback)  # stdout is for the result

    def get_train_dataloader(self) -> DataLoader[Row]:
        size = self.args.per_device_train_batch_size
        return self.accelerator.prepare(DataLoader(self.rows, size, sampler=self.order, collate_fn=batch))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        if self.teacher is None:
            loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        else:
            assert num_items_in_batch is not None  # learned tokens, as `average_tokens_across_devices` asks for
            inputs = dict(inputs)
            labels = inputs.pop("labels")
            with torch.no_grad():
                dense = self.teacher(**inputs, use_cache=False).logits
            total = divergence(model(**inputs, use_cache=False).logits, dense, labels)
            loss = total / num_items_in_batch * self.accelerator.num_processes  # gradients are averaged over processes
        assert isinstance(loss, Tensor)  # without the outputs, which are never asked for
        if not loss.isfinite():
            raise RecoverError.diverged(self.state.global_step + 1, self.args.learning_rate)
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        assert self.model is not None
        metrics = {"eval_loss": held_out_loss(self.model, self.held_out, self.args.per_device_train_batch_size)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def told(self) -> dict[str, Any]:
        """How it went; the weights are those of `best_step`."""
        state = self.state
        losses = {str(entry["step"]): entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry}
        return {
            "steps": state.global_step,
            "steps_planned": state.max_steps,
            "best_step": state.best_global_step or state.global_step,
            "held_out_loss": losses,
        }


class _Course(TrainerCallback):
    """Tells the order which epoch it is, the user how far it is, and stops when the held-out loss no longer falls.

    It keeps nothing itself: all is read from the Trainer's state, which its checkpoints hold.
    """

    def __init__(self, order: _Order, patience: int | None, job: RecoverJob):
        self.order, self.patience, self.job = order, patience, job

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.order.epoch = int(state.epoch or 0)
        self._stop(state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._stop(state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.job.progress(state.global_step, state.max_steps)

    def _stop(self, state: TrainerState, control: TrainerControl) -> None:
        losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        if self.patience and losses and len(losses) - 1 - losses.index(min(losses)) >= self.patience:
            control.should_training_stop = True


def _arguments(job: RecoverJob, params: TrainingParams, work: Path) -> TrainingArguments:
    schedule, on_gpu = params.schedule, job.device != "cpu"
    auto = schedule.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()
    checkpointing: dict[str, Any] = {
        _CHECKPOINTING: schedule.gradient_checkpointing,
        f"{_CHECKPOINTING}_kwargs": {"use_reentrant": False},
    }
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=params.epochs,
        per_device_train_batch_size=params.micro_batch_size,
        gradient_accumulation_steps=params.batch_size // (params.micro_batch_size * processes()),
        average_tokens_across_devices=True,
        learning_rate=params.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=schedule.warmup,
        logging_strategy="no",
        eval_strategy="steps",
        eval_steps=schedule.check_every,
        save_strategy="steps",
        save_steps=schedule.check_every,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=False,
        bf16=auto or schedule.precision == "bfloat16",
        use_cpu=not on_gpu,
        seed=job.seed,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        **checkpointing,
    )
    if arguments.n_gpu > 1:  # one process, several GPUs: Trainer would spread the model over them by itself
        arguments._n_gpu = 1
    return arguments


def _check_room(job: RecoverJob, way: Way) -> None:
    """Raises RecoverError if weights and training state do not fit in memory; activations are not counted."""
    if processes() == 1 and job.device.partition(":")[2] not in ("", "0"):
        raise RecoverError.device(job.device)
    parameters = sum(map(math.prod, tensor_shapes(job.checkpoint).values()))
    needed = parameters * way.bytes_per_parameter(stored_dtype(job.checkpoint))
    if dense := _dense(job, way.params):
        needed += weight_bytes(dense)
    free, here = free_bytes(torch.device(job.device)), processes_here() if job.device == "cpu" else 1
    if needed * here > free:
        wanted, there = (f"{size / 2**30:.2f} GiB" for size in (needed * here, free))
        raise RecoverError.no_room(wanted, there, type(way).__name__.lower())


def _dense(job: RecoverJob, params: TrainingParams) -> Path | None:
    """The directory of the model to learn from, if there is to be one. Raises RecoverError where it is not known."""
    if params.distill and job.dense is None:
        raise RecoverError.no_teacher()
    return job.dense if params.distill else None


def _teacher(dense: Path, device: str, config: dict[str, Any]) -> PreTrainedModel:
    teacher, its = load_model(dense, device=device)
    if its.get("vocab_size") != config.get("vocab_size"):
        raise RecoverError.other_vocabulary(dense, its.get("vocab_size"), config.get("vocab_size"))
    return teacher.requires_grad_(False)


def _write(model: PreTrainedModel, config: dict[str, Any], architecture: Architecture, job: RecoverJob) -> None:
    """The checkpoint with the same tensors in the same types as before, and the model's values."""
    stored, values = Shards(job.checkpoint, architecture), dict(model.named_parameters())
    trained = ((n, values[n].to(stored.dtype(n))) for n in stored if n in values)  # a head that is the embedding is not
    write_checkpoint(in_files(trained, architecture, config), config, job.checkpoint, job.destination)


@contextmanager
def _work(job: RecoverJob) -> Iterator[Path]:
    """The directory of the Trainer's checkpoints, locked for this training. Without `job.work` it is temporary."""
    work = job.work or job.destination.with_name(f".{job.destination.name}.training")
    lock = None
    if rank() == 0:
        work.mkdir(parents=True, exist_ok=True)
        lock = locked(work / LOCK, RecoverError.busy(work))
        for checkpoint in work.glob("checkpoint-*"):
            if not _is_whole(checkpoint):
                shutil.rmtree(checkpoint)
    wait_for_all()
    try:
        yield work
        wait_for_all()
    except RecoverError:  # the same training would fail again
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        if lock:
            lock.close()
            if job.work is None:
                shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars for checkpoints (`job.progress` reports), and no warning about names that peft still uses."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _last_checkpoint(work: Path) -> str | None:
    found = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if found:
        log.info("Training resumes from %s", found[-1])
    return str(found[-1]) if found else None


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: its state, which comes last, and the random states of all processes."""
    states = list(checkpoint.glob("rng_state*.pth"))
    try:
        read_object(checkpoint / "trainer_state.json")
    except (OSError, ValueError):
        return False
    return len(states) == processes() and all(map(zipfile.is_zipfile, states))  # a zip's directory is at its end
