"""A model whose tensors an architecture does not account for."""

from __future__ import annotations

from collections.abc import Sequence

from hgsp_core.errors import HgspError, first_few

_DAMAGED = "The checkpoint is damaged: download or save it again."
_DIFFERS = "Check that config.json and the weights match."


class LayoutError(HgspError):
    """A checkpoint whose tensors the architecture does not fully account for."""

    @classmethod
    def missing(cls, name: str, model_type: str) -> LayoutError:
        return cls(
            f"The model has no tensor '{name}', which every '{model_type}' model needs. "
            "The checkpoint is incomplete: download or save it again."
        )

    @classmethod
    def bias(cls, name: str, shape: Sequence[int], weight: Sequence[int]) -> LayoutError:
        return cls(f"Tensor '{name}' has the shape {tuple(shape)}, but its weight has {weight[0]} rows. {_DAMAGED}")

    @classmethod
    def unaccounted(cls, names: Sequence[str], model_type: str) -> LayoutError:
        return cls(
            f"The architecture '{model_type}' does not account for tensor(s) {first_few(names)}. Pruning would leave them at the "
            "wrong size. The model needs its own architecture plugin (hgsp plugins new architecture NAME)."
        )

    @classmethod
    def indivisible(cls, name: str, shape: Sequence[int], dim: int, units: int, key: str) -> LayoutError:
        return cls(
            f"Tensor '{name}' has {shape[dim]} rows along dimension {dim}, not a multiple of {units} units ('{key}' in config.json). "
            f"{_DIFFERS}"
        )

    @classmethod
    def not_a_matrix(cls, name: str, shape: Sequence[int]) -> LayoutError:
        return cls(f"Tensor '{name}' has the shape {tuple(shape)}, but must be a matrix. {_DAMAGED}")

    @classmethod
    def bad_count(cls, key: str, value: object) -> LayoutError:
        given = "is missing" if value is None else f"is {value!r}, not a positive integer"
        return cls(f"config.json: '{key}' {given}. Download or save the model again.")

    @classmethod
    def other_rows(cls, name: str, rows: int, expected: int, why: str) -> LayoutError:
        return cls(f"Tensor '{name}' has {rows} rows, but config.json says {expected} ({why}). {_DIFFERS}")

    @classmethod
    def too_few_experts(cls, layer: int, experts: int, key: str, chosen: int) -> LayoutError:
        return cls(f"config.json: '{key}' is {chosen}, but layer {layer} has {experts} experts. {_DIFFERS}")

    @classmethod
    def other_expert(cls, name: str, shape: Sequence[int], first: Sequence[int]) -> LayoutError:
        return cls(f"Tensor '{name}' has the shape {tuple(shape)}, the first expert's {tuple(first)}. {_DAMAGED}")

    @classmethod
    def no_units(cls, key: str) -> LayoutError:
        return cls(f"config.json has no '{key}', so the units of the model cannot be counted. Add it to config.json.")
