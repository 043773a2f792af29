"""The model and its tokenizer as one GGUF file (`hgsp_core.export.gguf`)."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.export.contract import Exporter, ExportJob
from hgsp_core.export.gguf.errors import GgufError
from hgsp_core.plugin.method import Params

if TYPE_CHECKING:
    from hgsp_core.model.layout import Layout


class GgufParams(Params):
    type: Literal["f32", "f16", "bf16", "q8_0"] = Field(
        "f16",
        description="dtype of the matrices; q8_0 stores a matrix as f16 if its row length is not a multiple of 32",
    )
    directory: str = Field("gguf", pattern=r"^\w[\w-]*$", description="name of the folder in the run directory")


def require_fit(directory: Path, layout: Layout) -> None:
    """Raises GgufError where GGUF cannot hold the model; the package gguf is not needed for that."""
    from hgsp_core.checkpoint.load import load_config, load_tokenizer
    from hgsp_core.export.gguf.network import network
    from hgsp_core.export.gguf.vocabulary import vocabulary

    config = load_config(directory)
    network(layout, config)
    vocabulary(load_tokenizer(directory), config.vocab_size)


class Gguf(Exporter[GgufParams]):
    """Writes one GGUF file with tokenizer and chat template, for llama.cpp.

    When: llama.cpp runs the model. Needs `pip install 'hgsp-core[gguf]'`.
    Notes: Another process compares every tensor with the checkpoint, and logits and token ids too if llama-cpp-python
        is installed. A model that GGUF cannot hold is refused before any work starts.
    """

    def check(self, directory: Path, layout: Layout) -> None:
        """Raises GgufError where GGUF cannot hold the model, before anything is cut.

        Args:
            directory: of the original.
            layout: the pruned model's, or the original's where no plan is made yet.
        """
        if find_spec("gguf") is None:
            raise GgufError.not_installed()
        require_fit(directory, layout)

    def __call__(self, job: ExportJob) -> Path:
        self.check(job.checkpoint, job.layout)
        from hgsp_core.checkpoint.record import write_record
        from hgsp_core.export.gguf.export import export_gguf

        folder = job.destination / self.params.directory
        try:
            folder.mkdir()
            path = folder / f"model-{self.params.type}.gguf"
            export_gguf(job, path, self.params.type)
            write_record(folder, job.layout, job.tokens, job.logits)
        except FileExistsError:
            raise CheckpointError.exists(folder) from None
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise GgufError.not_written(folder, error) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return path
