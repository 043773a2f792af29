"""The GGUF file, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from hgsp_core.errors import NumericError
from hgsp_core.export.gguf.errors import GgufError
from hgsp_core.export.gguf.network import Network, Piece
from hgsp_core.export.gguf.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from hgsp_core.checkpoint.shards import Shards

#: dtype -> (of matrices, of the file)
TYPES = {
    "f32": (Type.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Type.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Type.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Type.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
#: values encoded at a time: no matrix is in memory entirely in float32
_CHUNK = 1 << 24
_LARGEST_F16 = 65504.0


def write_gguf(
    path: Path,
    shards: Shards,
    network: Network,
    vocabulary: Vocabulary,
    number_type: str,
    progress: Callable[[int, int], None],
) -> None:
    """Write a model and its tokenizer.

    Raises:
        GgufError: a value too large for the dtype, or a file that cannot be written. No file is left behind.
        NumericError: NaN or infinity in a tensor.
    """
    types = {piece.name: stored_type(piece, number_type) for piece in network.pieces}
    writer = gguf.GGUFWriter(path, network.arch)
    try:
        writer.add_file_type(TYPES[number_type][1])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        network.describe(writer)
        vocabulary.describe(writer)
        for piece in network.pieces:
            _announce(writer, piece, types[piece.name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for number, piece in enumerate(network.pieces):
            writer.write_tensor_data(encode(piece, piece.read(shards), types[piece.name]))
            progress(number + 1, len(network.pieces))
        writer.close()
    except OSError as error:
        _discard(writer, path)
        raise GgufError.not_written(path, error) from error
    except BaseException:
        _discard(writer, path)
        raise


def stored_type(piece: Piece, number_type: str) -> Type:
    """Vectors stay in float32, which llama.cpp demands; rows that q8_0 cannot block by 32 become f16."""
    wanted = TYPES[number_type][0]
    if len(piece.shape) == 1:
        return Type.F32
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return wanted if piece.shape[-1] % block == 0 else Type.F16


def encode(piece: Piece, tensor: Tensor, kind: Type) -> np.ndarray:
    """A tensor [rows, columns] or [values] as the file has it: numbers, or the bytes of blocks."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    step = max(1, _CHUNK // rows.shape[-1])
    parts = []
    for start in range(0, len(rows), step):
        values = rows[start : start + step].float().numpy()
        largest = np.abs(values).max(initial=0)
        if not np.isfinite(largest):
            raise NumericError.weight(piece.sources[0])
        limit = _LARGEST_F16 * {Type.F16: 1, Type.Q8_0: 127}.get(kind, np.inf)  # a block of q8_0 has an f16 scale
        if largest > limit:
            raise GgufError.overflow(piece.sources[0], float(largest), kind.name.lower(), float(limit))
        parts.append(gguf.quantize(values, kind))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _announce(writer: gguf.GGUFWriter, piece: Piece, kind: Type) -> None:
    """Add the shape and the stored type of a tensor to the header."""
    values, nbytes = gguf.GGML_QUANT_SIZES[kind]
    size = prod(piece.shape) // values * nbytes
    writer.add_tensor_info(piece.name, piece.shape, np.dtype(np.float32), size, raw_dtype=kind)


def _discard(writer: gguf.GGUFWriter, path: Path) -> None:
    with suppress(OSError):  # closing flushes, which fails again where the disk is full
        writer.close()
    path.unlink(missing_ok=True)
