"""The model that a recipe names: where it lies, what it is made of, and its fingerprint. No weight is loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hgsp_core import plugins
from hgsp_core.checkpoint import MODEL_TYPE
from hgsp_core.checkpoint.fingerprint import fingerprint
from hgsp_core.checkpoint.read import LICENCE_FILES, read_config, require_range, stored_dtype, tensor_shapes
from hgsp_core.checkpoint.record import recorded_family
from hgsp_core.errors import CheckpointError, PluginError
from hgsp_core.layout import Layout, read_layout
from hgsp_core.paths import expanded
from hgsp_core.recipe import ModelPart

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: what a pruning run reads of a hub repository: no pickles, no code
_PATTERNS = ["*.json", "*.safetensors", "tokenizer*", "*.model", "*.jinja", "*.txt", "README.md", *LICENCE_FILES]

#: of `auto_map`, what computes
_MODEL_CLASSES = ("AutoModel", "AutoModelForCausalLM")


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
    if own := [name for auto, name in (config.get("auto_map") or {}).items() if auto in _MODEL_CLASSES]:
        raise CheckpointError.own_code(directory / "config.json", list(map(str, own)))
    if quantised := config.get("quantization_config"):
        raise CheckpointError.quantised(directory, f"quantised weights ({quantised.get('quant_method', 'quantization_config')})", list(BYTES))
    try:
        architecture = plugins.architecture(str(model_type))
    except PluginError as error:
        raise PluginError(f"{directory / 'config.json'}: model_type: {error}") from None
    stored = stored_dtype(directory)
    layout = read_layout(architecture, config, tensor_shapes(directory))
    _check_heads(directory, layout)
    dtype = stored if part.dtype == "auto" else part.dtype
    if dtype == "float16" != stored:
        require_range(directory, layout.tensors(), dtype)
    return Source(part.path, directory, config, layout, dtype, fingerprint(directory))


def _check_heads(directory: Path, layout: Layout) -> None:
    """Queries and keys are multiplied, so their heads are of one size. Raises CheckpointError where config.json contradicts."""
    for block in layout.blocks():
        scales, cache = block.axis.scales, block.axis.cache
        if not cache or layout.config.get(next(iter(scales), "")) is None:
            continue
        rows = int(layout.config[scales[0]]) * block.slice_of(cache[0]).width
        for s in block.slices:
            if s.dim == 0 and not s.module.endswith(cache) and s.shape[0] != rows:
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
    family = family or recorded_family(directory) or config.get("base_model_type") or config.get("model_type")
    if not family:
        raise CheckpointError.no_model_type(directory / "config.json")
    return read_layout(plugins.architecture(str(family)), config, tensor_shapes(directory))


def locate(part: ModelPart) -> Path:
    """The local directory of a path or hub id; a hub id is downloaded (or found in the hub's cache) without pickles or code."""
    directory = expanded(part.path)
    if directory.is_dir():
        return directory
    if part.path.count("/") != 1 or part.path.startswith((".", "/", "~")):
        raise CheckpointError.no_directory(part.path)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(part.path, revision=part.revision, allow_patterns=_PATTERNS))
    except Exception as error:  # noqa: BLE001 - network, authorisation and cache faults have no common type
        raise CheckpointError.hub(part.path, error) from None
