"""A model that GGUF cannot represent, or a GGUF file with a fault."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hgsp_core.errors import HgspError

_INSTEAD = "Export it with export: [{use: huggingface}] instead."


class GgufError(HgspError):
    """A model that GGUF cannot hold, or a GGUF file that cannot be written or trusted."""

    @classmethod
    def not_installed(cls) -> GgufError:
        return cls("export: 'gguf' needs the package gguf: pip install 'hgsp-core[gguf]'")

    @classmethod
    def family(cls, family: str) -> GgufError:
        return cls(f"export: GGUF: no architecture of llama.cpp is known to compute the same as '{family}'. {_INSTEAD}")

    @classmethod
    def setting(cls, key: str, value: object, known: Sequence[object]) -> GgufError:
        return cls(
            f"export: GGUF cannot hold a model with {key}: {value!r} in its config.json, only {', '.join(map(repr, known))}: "
            f"llama.cpp would produce different logits. {_INSTEAD}"
        )

    @classmethod
    def biases(cls, names: Sequence[str]) -> GgufError:
        return cls(
            f"export: GGUF cannot hold '{names[0]}': llama.cpp's architectures with q and k norms have no biases. {_INSTEAD}"
        )

    @classmethod
    def untied(cls) -> GgufError:
        return cls(
            "export: GGUF cannot hold this model: llama.cpp's only architecture with q and k norms whose layers may differ in size "
            "(openelm) supports only a tied head. Give all layers the same size (allocate: {use: uniform, with: {uniform: true}} or "
            "{use: depth}), or export it with export: [{use: huggingface}] instead."
        )

    @classmethod
    def tokenizer(cls, reason: str) -> GgufError:
        return cls(f"export: GGUF cannot hold the tokenizer: {reason}. llama.cpp would give other ids. {_INSTEAD}")

    @classmethod
    def too_few_rows(cls, tokens: int, rows: int) -> GgufError:
        return cls(
            f"export: the tokenizer has {tokens} tokens, but the model's embedding has only {rows} rows, which GGUF does not support. "
            "Check that tokenizer and weights match."
        )

    @classmethod
    def overflow(cls, tensor: str, value: float, kind: str, limit: float) -> GgufError:
        return cls(
            f"export: '{tensor}' contains {value:g}, which is too large for {kind} (at most {limit:g}). "
            "Set the exporter's type to bf16 or f32."
        )

    @classmethod
    def not_written(cls, path: Path, error: Exception) -> GgufError:
        return cls(f"'{path}' cannot be written: {error}. Nothing was kept; free some space or choose another place.")

    @classmethod
    def not_loaded(cls, path: Path, output: str) -> GgufError:
        reason = "\n".join(output.strip().splitlines()[-5:])
        return cls(f"'{path}' was written, but llama.cpp cannot load it:\n{reason}")

    @classmethod
    def damaged(cls, path: Path, error: Exception) -> GgufError:
        return cls(f"'{path}' is truncated or not a GGUF file ({type(error).__name__}). Export it again.")

    @classmethod
    def differs(cls, path: Path, output: str) -> GgufError:
        reason = "\n".join(output.strip().splitlines()[-3:])
        return cls(f"'{path}' was written, but read back it differs from the checkpoint: {reason}. Please report this.")

    @classmethod
    def other_logits(cls, path: Path, difference: float, most: float) -> GgufError:
        return cls(
            f"'{path}' was written, but llama.cpp's logits differ from the checkpoint's by {difference:.2g} of their spread (tolerance "
            f"{most:g}). This version of llama.cpp produces wrong logits: try another one, and please report this."
        )

    @classmethod
    def other_ids(cls, path: Path, text: str, theirs: Sequence[int], ours: Sequence[int]) -> GgufError:
        return cls(
            f"'{path}' was written, but llama.cpp tokenizes {text!r} as {list(theirs)}, the model's tokenizer as {list(ours)}. "
            f"{_INSTEAD} Please report this."
        )
