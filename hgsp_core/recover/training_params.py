"""Parameters of the recoverers `lora` and `full`, apart from the methods so that declaring them imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hgsp_core.plugin.method import Params


class RecordParams(Params):
    """What is made of the training data."""

    format: Literal["auto", "alpaca", "chat", "text"] = Field(
        "auto",
        description="alpaca = instruction/input/output, chat = messages with the tokenizer's template, text = plain text; "
        "auto = by the fields of the first record",
    )
    options: dict[str, Any] = Field(
        {}, description="parameters of the dataset (hgsp plugins show NAME), such as its column"
    )
    seq_len: int = Field(
        256, ge=2, description="tokens of a row at the most; longer records are cut, text is cut into windows of it"
    )
    packing: bool = Field(False, description="several records in one row of seq_len, none seeing another: less padding")
    held_out: float = Field(
        0.05, gt=0, lt=1, description="share of the rows that are not trained on and that perplexity is measured on"
    )


class ScheduleParams(Params):
    """How the training goes."""

    warmup: float = Field(
        0.03, ge=0, lt=1, description="share of the steps in which the learning rate rises; then it falls linearly"
    )
    check_every: int = Field(
        100, ge=1, description="optimizer steps between two looks at the held-out loss, each with a checkpoint"
    )
    patience: int | None = Field(
        3, ge=1, description="looks without a better held-out loss after which training stops; none = never"
    )
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="number type of the products; auto = bfloat16 on GPUs that have it, else that of the weights",
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations twice instead of keeping them: less memory, slower"
    )


class TrainingParams(Params):
    """Data, length and step size of a training."""

    dataset: str = Field(
        "yahma/alpaca-cleaned", min_length=1, description="dataset name, local file or hub id to train on"
    )
    samples: int | None = Field(None, ge=2, description="only the first so many records (of text: windows); none = all")
    epochs: float = Field(2.0, gt=0, le=10_000, description="passes over the records")
    learning_rate: float = Field(3e-4, gt=0, le=1, description="largest learning rate of AdamW")
    batch_size: int = Field(128, ge=1, description="rows of one optimizer step, over all processes")
    micro_batch_size: int = Field(4, ge=1, description="rows at a time in one process; changes cost, never the result")
    distill: bool = Field(
        False, description="learn the dense model's probabilities (KL on logits) instead of the text itself"
    )
    records: RecordParams = Field(RecordParams(), description="what is made of the data")
    schedule: ScheduleParams = Field(ScheduleParams(), description="how the training goes")


class LoRAParams(TrainingParams):
    r: int = Field(8, ge=1, description="rank of the adapter of each linear")
    alpha: float = Field(16.0, gt=0, allow_inf_nan=False, description="scale: an adapter counts alpha/r times")
    dropout: float = Field(0.05, ge=0, lt=1, description="share of an adapter's inputs that are dropped while training")
    adapter: str | None = Field(
        None, description="directory of a peft LoRA adapter of this very model to go on from; it brings its r and alpha"
    )


class FullParams(TrainingParams):
    learning_rate: float = Field(2e-5, gt=0, le=1, description="largest learning rate of AdamW")
