"""The checkpoint as a directory that transformers loads: the stock class where the sizes allow it, else with its own code."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from hgsp_core.types import ExportJob, Params


class HuggingFaceParams(Params):
    directory: str = Field("model", pattern=r"^[\w.-]+$", description="name of the folder in the run directory")
    max_shard_size: int = Field(5_000_000_000, ge=1_000_000, description="bytes per safetensors file at the most")


class HuggingFace:
    """Writes the directory, then reloads it in a fresh process without hgsp and compares logits bit for bit."""

    def __init__(self, params: HuggingFaceParams):
        self.params = params

    def __call__(self, job: ExportJob) -> Path:
        from hgsp_core.checkpoint.read import iter_tensors, read_config
        from hgsp_core.checkpoint.verify import verify_reload
        from hgsp_core.checkpoint.write import write_checkpoint

        destination = job.destination / self.params.directory
        tensors = iter_tensors(job.checkpoint)
        write_checkpoint(tensors, read_config(job.checkpoint), job.checkpoint, destination, self.params.max_shard_size)
        verify_reload(destination, job.tokens, job.logits)
        return destination
