"""What `lora` and `full` share: data that is checked before anything is loaded, and the training (`training.py`)."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hgsp_core.engine.launched import launched
from hgsp_core.recover.contract import Recoverer, RecoverJob
from hgsp_core.recover.errors import RecoverError
from hgsp_core.recover.records import read_records
from hgsp_core.recover.training_params import TrainingParams

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

T = TypeVar("T", bound=TrainingParams)


class Trained(Recoverer[T]):
    """A recoverer that runs transformers' Trainer, in all processes."""

    parallel = True

    def __init__(self, params: T):
        """Raises RecoverError (a batch that does not divide, a record without its fields) or DataError (no data)."""
        super().__init__(params)
        processes, given = launched(), params.records
        if params.batch_size % (params.micro_batch_size * processes):
            raise RecoverError.batch(params.batch_size, params.micro_batch_size, processes)
        self.records = read_records(params.dataset, given.options, given.format, params.samples, given.seq_len)

    def check(self, directory: Path) -> None:
        """The model's chat template takes every chat. Raises RecoverError, or CheckpointError without a tokenizer."""
        if self.records.format == "chat":
            from hgsp_core.checkpoint.load import load_tokenizer
            from hgsp_core.recover.chats import ChatTemplate

            ChatTemplate(load_tokenizer(directory), self.records.name).check(self.records)

    def __call__(self, job: RecoverJob) -> dict[str, Any]:
        from hgsp_core.recover.training import train

        return train(job, self)

    @abstractmethod
    def bytes_per_parameter(self, stored: str) -> int:
        """Memory that training takes for each parameter of the model, activations apart."""

    @abstractmethod
    def attach(self, model: PreTrainedModel, job: RecoverJob) -> PreTrainedModel | PeftModel:
        """The model with what is trained; everything else is frozen."""

    @abstractmethod
    def detach(self, model: Any) -> PreTrainedModel:
        """The plain model with what was trained merged into its weights."""
