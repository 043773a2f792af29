"""The checkpoint as a directory that transformers loads: the stock class where the sizes allow it, else with its own code."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.export.contract import Exporter, ExportJob
from hgsp_core.export.gguf.errors import GgufError
from hgsp_core.export.gguf.exporter import require_fit
from hgsp_core.plugin.method import Params

if TYPE_CHECKING:
    from hgsp_core.model.layout import Layout


class HuggingFaceParams(Params):
    directory: str = Field("model", pattern=r"^\w[\w-]*$", description="name of the folder in the run directory")
    max_shard_size: int = Field(5_000_000_000, ge=1_000_000, description="maximum size of a safetensors file, in bytes")
    push_to_hub: str | None = Field(
        None,
        pattern=r"^[\w-][\w.-]*/[\w-][\w.-]*$",
        description="Hugging Face hub repository to upload to, ORG/NAME; new or empty",
    )
    private: bool = Field(False, description="true = create the repository as private")

    @model_validator(mode="after")
    def _private_what(self) -> HuggingFaceParams:
        if self.private and self.push_to_hub is None:
            raise ValueError("private requires push_to_hub")
        return self


class HuggingFace(Exporter[HuggingFaceParams]):
    """Writes a safetensors directory that transformers loads.

    When: the default; every other tool starts from it.
    Notes: The stock class loads it if all layers have the same sizes; otherwise the directory ships its modeling
        file. The directory is reloaded in a fresh process without hgsp, and logits are compared bit for bit. A model
        that does not fit in memory is computed layer by layer there, which needs hgsp.
    """

    def check(self, directory: Path, layout: Layout) -> None:
        """Raises HubError where a push is asked for that cannot be tried."""
        if self.params.push_to_hub:
            from hgsp_core.export.hub import check_hub

            check_hub(self.params.push_to_hub)

    def __call__(self, job: ExportJob) -> Path:
        import torch

        from hgsp_core.checkpoint.read import read_config, tensor_files, weight_bytes
        from hgsp_core.checkpoint.record import write_record
        from hgsp_core.checkpoint.shards import read_tensors
        from hgsp_core.checkpoint.write import copy_checkpoint, write_checkpoint
        from hgsp_core.export.card import CARD, model_card
        from hgsp_core.export.reload import verify_reload, verify_streamed

        source, destination, limit = job.checkpoint, job.destination / self.params.directory, self.params.max_shard_size
        config, size = read_config(source), weight_bytes(source)
        if all(file.stat().st_size <= limit for file in set(tensor_files(source).values())):
            # a run deletes its checkpoint afterwards; the model given to `hgsp export` is kept and must not be shared
            linked = source.parent == job.destination
            copy, needed = (_link_or_copy, 0) if linked else (shutil.copy2, size)
            copy_checkpoint(source, config, destination, copy, needed)
        else:
            write_checkpoint(read_tensors(source), config, source, destination, limit, size)
        config = read_config(destination)
        if job.report:
            card = model_card(destination, config, job.layout, job.plan, job.report, job.original, _fits_gguf(job))
            (destination / CARD).write_text(card, encoding="utf-8")
        elif (source / CARD).is_file():
            shutil.copyfile(source / CARD, destination / CARD)
        tokens = torch.from_numpy(job.tokens)
        if job.resident:
            verify_reload(destination, tokens, job.logits)
        else:
            verify_streamed(destination, tokens, job.logits, job.layout.architecture.model_type)
        write_record(destination, job.layout, job.tokens, job.logits)
        return destination

    def publish(self, directory: Path) -> str | None:
        """Send what was written to the hub, if asked to. Returns where it is. Raises HubError."""
        if not self.params.push_to_hub:
            return None
        from hgsp_core.export.hub import push

        return push(directory, self.params.push_to_hub, self.params.private)


def _fits_gguf(job: ExportJob) -> bool:
    """Whether `hgsp export --to gguf` takes the model."""
    try:
        require_fit(job.checkpoint, job.layout)
    except (GgufError, CheckpointError):
        return False
    return True


def _link_or_copy(source: Path, destination: Path) -> None:
    """A hard link where the file system has those: the checkpoint itself is deleted afterwards."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)
