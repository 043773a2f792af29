"""The model of a recipe: its directory, its layout and its fingerprint. No weight is loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hgsp_core.checkpoint import MODEL_TYPE
from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.fingerprint import fingerprint
from hgsp_core.checkpoint.read import (
    INDEX,
    LICENCE_FILES,
    WEIGHTS,
    places,
    read_config,
    same_bytes,
    shard_names,
    stored_dtype,
)
from hgsp_core.checkpoint.record import read_record
from hgsp_core.checkpoint.stored import in_memory
from hgsp_core.files.paths import expanded, is_hub_id
from hgsp_core.model.architecture import Architecture
from hgsp_core.model.layout import Layout, read_layout
from hgsp_core.plugin import registry
from hgsp_core.plugin.errors import PluginError
from hgsp_core.runtime.recipe import ModelPart

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: quant_method -> the class of its settings, where transformers can load such weights dequantised without a GPU
_DEQUANTISED = {"fp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config"}
#: files of a hub repository that are downloaded: no pickles, no code
_PATTERNS = ["*.json", WEIGHTS, "tokenizer*", "*.model", "*.jinja", "*.txt", "README.md", *LICENCE_FILES]
#: folders with copies of the weights for other programs (original/, fp16/, onnx/)
_IGNORED = ["*/*.json", "*/*.model", "*/*.txt", f"*/{WEIGHTS}", "*/tokenizer*"]


@dataclass(frozen=True)
class Source:
    """A checkpoint directory that has been accounted for. `name` is what the recipe called it."""

    name: str
    directory: Path
    config: Mapping[str, Any]
    layout: Layout
    dtype: str
    fingerprint: str

    @property
    def bytes_per_parameter(self) -> int:
        """Of the dtype that the weights have in memory."""
        return BYTES[self.dtype]


def open_model(part: ModelPart) -> Source:
    """Find the model, read its shapes and hash it.

    Raises:
        CheckpointError: not there, incomplete or damaged.
        PluginError: no plugin knows its model_type.
        LayoutError: tensors that its architecture does not account for.
    """
    directory = locate(part)
    config = read_config(directory)
    model_type = config.get("model_type")
    if not model_type:
        raise CheckpointError.no_model_type(directory / "config.json")
    if model_type == MODEL_TYPE:
        raise CheckpointError.pruned_already(directory)
    try:
        architecture = registry.architecture(str(model_type))
    except PluginError as error:
        raise PluginError(f"{directory / 'config.json'}: model_type: {error}") from None
    if (quantised := config.get("quantization_config")) is not None:
        method = quantised.get("quant_method", "quantization_config")
        if settings := _DEQUANTISED.get(method):
            raise CheckpointError.can_be_dequantised(directory, method, settings)
        raise CheckpointError.quantised(directory, f"quantised weights ({method})", list(BYTES))
    stored = stored_dtype(directory)
    layout = _layout(directory, architecture, config)
    _check_heads(directory, layout)
    dtype = stored if part.dtype == "auto" else part.dtype
    if dtype == "float16" != stored:
        from hgsp_core.checkpoint.shards import require_range  # which imports torch

        require_range(directory, layout.tensors(), dtype, architecture)
    return Source(part.path, directory, config, layout, dtype, fingerprint(directory))


def _check_heads(directory: Path, layout: Layout) -> None:
    """Queries and keys are multiplied, so their heads are of one size. Raises CheckpointError where config.json contradicts."""
    for block in layout.blocks():
        scales, cache = block.axis.scales, block.axis.cache
        if not cache or layout.config.get(next(iter(scales), "")) is None:
            continue
        rows = int(layout.config[scales[0]]) * block.slice_of(cache[0]).width
        for s in block.slices:
            if s.dim == 0 and s.name not in cache and s.shape[0] != rows and s.is_linear:
                raise CheckpointError.other_shape(directory, s.weight, s.shape, (rows, *s.shape[1:]))


def checkpoint_layout(directory: Path, family: str | None = None) -> Layout:
    """The layout of a checkpoint as it stands, pruned ones included. No weight is read.

    Args:
        family: model_type of the original, which a pruned model that is stored as a related one does not tell;
            None = as its hgsp.json says, else its config.json.

    Raises:
        CheckpointError: not there, incomplete or damaged.
        PluginError: no plugin knows its family.
        LayoutError: config.json and the tensors disagree.
    """
    config = read_config(directory)
    architecture = registry.architecture(family) if family else architecture_of(directory)
    return _layout(directory, architecture, config)


def architecture_of(directory: Path) -> Architecture:
    """The data of a checkpoint's family: as its hgsp.json says, else its config.json.

    Raises:
        CheckpointError: not there, damaged, or nothing tells the family.
        PluginError: no plugin knows it.
    """
    config = read_config(directory)
    family = (read_record(directory) or {}).get("family") or config.get("base_model_type") or config.get("model_type")
    if not family:
        raise CheckpointError.no_model_type(directory / "config.json")
    return registry.architecture(str(family))


def _layout(directory: Path, architecture: Architecture, config: Mapping[str, Any]) -> Layout:
    """Config and tensors accounted for. A stored head is dropped as the embedding's only where it is that, byte for byte."""
    stored = places(directory)
    prefix, _, rest = architecture.layers.partition(".")
    starts = [start for start in (prefix, rest) if any(name.startswith(f"{start}.") for name in stored)]
    if starts == [rest]:
        raise CheckpointError.no_prefix(directory, prefix)
    head, embed = f"{architecture.head}.weight", f"{architecture.embed}.weight"
    tied = bool(config.get("tie_word_embeddings")) and head in stored and embed in stored
    if tied and not same_bytes(stored[head], stored[embed]):
        raise CheckpointError.other_head(directory, head, embed)
    shapes = {name: tensor.shape for name, tensor in in_memory(stored, architecture).items()}
    return read_layout(architecture, config, shapes)


def locate(part: ModelPart) -> Path:
    """The local directory of a path or hub id; a hub id is downloaded (or found in the hub's cache) without pickles or code.

    Of the weights one set is fetched: model.safetensors, or the files that its index names.
    """
    directory = expanded(part.path)
    if not is_hub_id(part.path):
        read_config(directory)
        return directory
    from huggingface_hub import snapshot_download

    fetch = partial(snapshot_download, part.path, revision=part.revision, ignore_patterns=_IGNORED)
    try:
        directory = Path(fetch(allow_patterns=_PATTERNS))
        if not (directory / WEIGHTS).is_file() and (directory / INDEX).is_file():
            directory = Path(fetch(allow_patterns=[*_PATTERNS, *shard_names(directory)]))
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - network, authorisation and cache faults have no common type
        raise CheckpointError.hub(part.path, error) from None
    if not any((directory / name).is_file() for name in (WEIGHTS, INDEX)):
        raise CheckpointError.no_safetensors(part.path)
    return directory


def model_directory(model: str | Path) -> Path:
    """The directory of a model: of a run, of a Hugging Face directory or of a hub id. Raises HgspError."""
    path = expanded(model)
    if (path / "report.json").is_file() and not (path / "config.json").is_file():
        inside = sorted(file.parent for file in path.glob("*/config.json"))
        if not inside:
            raise CheckpointError.no_model_in_run(path)
        if len(inside) > 1 and path / "model" not in inside:
            raise CheckpointError.several_models(path, [folder.name for folder in inside])
        path = path / "model" if path / "model" in inside else inside[0]
    directory = path if path.is_dir() else locate(ModelPart(path=str(model)))
    read_config(directory)
    return directory
