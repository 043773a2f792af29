"""What can be known to be wrong with a training before anything is loaded or measured."""

from __future__ import annotations

from pathlib import Path

from hgsp_core.engine.launched import launched
from hgsp_core.recover.errors import RecoverError
from hgsp_core.recover.records import Records, read_records
from hgsp_core.recover.training_params import TrainingParams


def prepare(params: TrainingParams) -> Records:
    """The records that are to be learned.

    Raises:
        RecoverError: a batch that is no whole number of micro-batches in every process, a record without its fields.
        DataError: a dataset that is not there or cannot be read.
    """
    processes = launched()
    if params.batch_size % (params.micro_batch_size * processes):
        raise RecoverError.batch(params.batch_size, params.micro_batch_size, processes)
    given = params.records
    return read_records(params.dataset, given.options, given.format, params.samples, given.seq_len)


def check_chats(records: Records, directory: Path) -> None:
    """The chat template of the model in `directory` takes every record, where they are chats.

    Raises:
        RecoverError: it does not, or there is none.
        CheckpointError: no tokenizer.
    """
    if records.format == "chat":
        from hgsp_core.checkpoint.load import load_tokenizer
        from hgsp_core.recover.chats import ChatTemplate

        ChatTemplate(load_tokenizer(directory), records.name).check(records)
