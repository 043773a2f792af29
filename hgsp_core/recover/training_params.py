"""Parameters of the recoverers `lora` and `full`, apart from the methods so that declaring them imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hgsp_core.plugin.method import Params


class RecordParams(Params):
    """How training data is read."""

    format: Literal["auto", "alpaca", "chat", "text"] = Field(
        "auto",
        description="alpaca = instruction/input/output, chat = messages with the tokenizer's template, text = plain text; "
        "auto = from the fields of the first record",
    )
    options: dict[str, Any] = Field({}, description="parameters of the dataset (hgsp plugins show NAME): its column")
    seq_len: int = Field(
        256,
        ge=2,
        description="maximum tokens per row; longer records are truncated, text is split into windows of this length",
    )
    packing: bool = Field(False, description="several records in a row, without attention between them: less padding")
    held_out: float = Field(
        0.05, gt=0, lt=1, description="share of the rows held out of training, on which perplexity is measured"
    )


class ScheduleParams(Params):
    """The training schedule."""

    warmup: float = Field(
        0.03, ge=0, lt=1, description="share of the steps that warm up the learning rate, which then decays linearly"
    )
    check_every: int = Field(
        100, ge=1, description="optimizer steps between evaluations of the held-out loss; each also saves a checkpoint"
    )
    patience: int | None = Field(
        3, ge=1, description="evaluations without a better held-out loss before training stops early; null = never"
    )
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="dtype of matrix products; auto = bfloat16 on GPUs that support it, otherwise the dtype of the weights",
    )
    gradient_checkpointing: bool = Field(False, description="recomputes activations: less memory, slower")


class TrainingParams(Params):
    """Data, length and step size of a training."""

    dataset: str | None = Field(
        "yahma/alpaca-cleaned",
        min_length=1,
        description="dataset name, local file or hub id; null = the calibration windows",
    )
    samples: int | None = Field(None, ge=2, description="number of records (text: windows), from the first; null = all")
    epochs: float = Field(2.0, gt=0, le=10_000, description="passes over the records")
    learning_rate: float = Field(3e-4, gt=0, le=1, description="peak learning rate of AdamW")
    batch_size: int = Field(128, ge=1, description="rows per optimizer step, over all processes")
    micro_batch_size: int = Field(4, ge=1, description="rows per forward in a process; affects cost, not the result")
    distill: bool = Field(False, description="learn the dense model's probabilities (KL on logits) instead of the text")
    records: RecordParams = Field(RecordParams(), description="how training data is read")
    schedule: ScheduleParams = Field(ScheduleParams(), description="the training schedule")


class LoRAParams(TrainingParams):
    r: int = Field(8, ge=1, description="rank of each adapter")
    alpha: float = Field(16.0, gt=0, allow_inf_nan=False, description="adapter scale; the factor is alpha/r")
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout on the adapters' inputs during training")
    adapter: str | None = Field(
        None, description="directory of a peft LoRA adapter of this model to continue from; it sets r and alpha"
    )


class GainsParams(TrainingParams):
    dataset: str | None = Field(
        None, min_length=1, description="dataset name, local file or hub id; null = the calibration windows"
    )
    learning_rate: float = Field(1e-2, gt=0, le=1, description="peak learning rate of AdamW")
    batch_size: int = Field(8, ge=1, description="rows per optimizer step, over all processes")
    distill: bool = Field(True, description="learn the dense model's probabilities (KL on logits) instead of the text")


class FullParams(TrainingParams):
    learning_rate: float = Field(2e-5, gt=0, le=1, description="peak learning rate of AdamW")
