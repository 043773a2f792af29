"""The checkpoint as a directory that transformers loads: the stock class where the sizes allow it, else with its own code."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pydantic import Field

from hgsp_core.types import ExportJob, Params


class HuggingFaceParams(Params):
    directory: str = Field("model", pattern=r"^\w[\w-]*$", description="name of the folder in the run directory")
    max_shard_size: int = Field(5_000_000_000, ge=1_000_000, description="bytes per safetensors file at the most")


class HuggingFace:
    """Writes the directory, reloads it in a fresh process without hgsp and compares logits bit for bit.

    A model that does not fit in memory is computed there layer by layer instead, which takes hgsp.
    """

    def __init__(self, params: HuggingFaceParams):
        self.params = params

    def __call__(self, job: ExportJob) -> Path:
        import torch

        from hgsp_core.checkpoint.read import iter_tensors, read_config, tensor_files
        from hgsp_core.checkpoint.record import write_record
        from hgsp_core.checkpoint.verify import verify_reload, verify_streamed
        from hgsp_core.checkpoint.write import write_checkpoint

        destination, limit = job.destination / self.params.directory, self.params.max_shard_size
        if all(file.stat().st_size <= limit for file in set(tensor_files(job.checkpoint).values())):
            shutil.copytree(job.checkpoint, destination, copy_function=_link_or_copy)
        else:
            write_checkpoint(iter_tensors(job.checkpoint), read_config(job.checkpoint), job.checkpoint, destination, limit)
        tokens = torch.from_numpy(job.tokens)
        if job.resident:
            verify_reload(destination, tokens, job.logits)
        else:
            verify_streamed(destination, tokens, job.logits, job.layout.architecture.model_type)
        write_record(destination, job)
        return destination


def _link_or_copy(source: str, destination: str) -> None:
    """A second name for the same file where the file system has those: the checkpoint itself is deleted afterwards."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)
