"""What `lora`, `gains` and `full` share: data that is checked before anything is loaded, and the training (`training.py`)."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hgsp_core.engine.launched import launched
from hgsp_core.recover.contract import Recoverer, RecoverJob
from hgsp_core.recover.errors import RecoverError
from hgsp_core.recover.records import Records, read_records
from hgsp_core.recover.training_params import TrainingParams
from hgsp_core.runtime.source import BYTES

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
        self.needs_calibration = params.dataset is None
        self._records = None
        if params.dataset is not None:
            self._records = read_records(params.dataset, given.options, given.format, params.samples, given.seq_len)

    def check(self, directory: Path) -> None:
        """The model's chat template takes every chat. Raises RecoverError, or CheckpointError without a tokenizer."""
        if self._records and self._records.format == "chat":
            from hgsp_core.checkpoint.load import load_tokenizer
            from hgsp_core.recover.chats import ChatTemplate

            ChatTemplate(load_tokenizer(directory), self._records.name).check(self._records)

    def records(self, job: RecoverJob) -> Records:
        """What is to be learned. Raises RecoverError: the calibration windows, and there are none."""
        if self._records is not None:
            return self._records
        if job.calibration is None:
            raise RecoverError.nothing_to_train_on()
        return Records("the calibration set", "windows", windows=job.calibration.tokens.tolist())

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


class Adapted(Trained[T]):
    """One that trains a few weights beside those of the model, with peft, and merges them."""

    def bytes_per_parameter(self, stored: str) -> int:
        return 4 if stored == "float16" else BYTES[stored]

    def attach(self, model: PreTrainedModel, job: RecoverJob) -> PeftModel:
        import torch

        # in the range of float16 small gradients would vanish
        return self.adapted(model.float() if model.dtype == torch.float16 else model, job)

    @abstractmethod
    def adapted(self, model: PreTrainedModel, job: RecoverJob) -> PeftModel:
        """The model with its adapter."""

    def detach(self, model: PeftModel) -> PreTrainedModel:
        return model.merge_and_unload(safe_merge=True)
