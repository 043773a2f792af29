"""Messages of these methods."""

from __future__ import annotations

from hgsp_core import HgspError
from hgsp_core.errors import first_line


class TorchPruningError(HgspError):
    """Torch-Pruning is missing, cannot handle a model, or removed something else than planned."""

    @classmethod
    def not_installed(cls) -> TorchPruningError:
        return cls("allocate: torch_pruning needs Torch-Pruning: pip install 'hgsp-baselines[torch-pruning]'")

    @classmethod
    def grouped_attention(cls, layer: int, heads: int, groups: int) -> TorchPruningError:
        return cls(
            f"allocate.with.attention: Torch-Pruning cannot remove entire groups of grouped-query attention (layer {layer}: "
            f"{heads} query heads share {groups} KV heads): it removes query heads from each group, or never finishes. Set "
            "attention: keep to prune only the MLPs, or use another allocator (hgsp plugins list)."
        )

    @classmethod
    def no_heads(cls, model_type: str) -> TorchPruningError:
        return cls(
            f"allocate.with.attention: Torch-Pruning finds no heads to remove in a model of type '{model_type}': norms of single "
            "heads stand in its way. Set attention: keep to prune only the MLPs, or use another allocator (hgsp plugins list)."
        )

    @classmethod
    def not_traced(cls, model_type: str, error: Exception) -> TorchPruningError:
        return cls(
            f"allocate: Torch-Pruning cannot trace a model of type '{model_type}': {type(error).__name__}: {first_line(error)} "
            "Use another allocator (hgsp plugins list)."
        )

    @classmethod
    def part_of_a_unit(cls, layer: int, axis: str) -> TorchPruningError:
        return cls(
            f"allocate: Torch-Pruning removed parts of units in layer {layer}, {axis}, instead of entire units. "
            "Use another allocator (hgsp plugins list)."
        )

    @classmethod
    def short(cls, ratio: float, of: str, reached: float, attention: bool) -> TorchPruningError:
        fix = "Lower it" if attention else "Attention is not pruned, so all of it must come from the MLPs: lower it"
        return cls(
            f"allocate.with.ratio: {ratio:g} of {of} is requested, but Torch-Pruning removes at most {reached:.4f} without "
            f"exceeding it. {fix}, or use another allocator (hgsp plugins list)."
        )
