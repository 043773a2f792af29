"""A plan that cannot be made or read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hgsp_core.errors import HgspError


class PlanError(HgspError):
    """A plan or an allocation that does not fit the model."""

    @classmethod
    def other_model(cls, what: str, planned: int, there: int) -> PlanError:
        return cls(
            f"plan.json is for another model: it has {planned} {what}, the model has {there}. "
            "Use it with the model in its 'model' entry, or plan again (hgsp plan)."
        )

    @classmethod
    def bad_units(cls, layer: int, axis: str, units: int) -> PlanError:
        return cls(
            f"plan.json: layer {layer}, {axis}: 'kept' must be ascending indices below {units}, without repeats. Plan again (hgsp plan)."
        )

    @classmethod
    def unreadable(cls, path: Path, error: str) -> PlanError:
        return cls(
            f"allocate.with.path: '{path}' cannot be read as a plan ({error}). It must be like the plan.json of a run."
        )

    @classmethod
    def not_applied(cls, path: Path, error: PlanError) -> PlanError:
        return cls(f"allocate.with.path: '{path}' does not fit the model. {error}")

    @classmethod
    def other_count(cls, layer: int, axis: str, planned: int, kept: Sequence[int]) -> PlanError:
        return cls(
            f"The reconstructor kept {len(set(kept))} units in layer {layer}, {axis}; the plan keeps {planned}. "
            "This is a bug in the reconstructor's plugin."
        )

    @classmethod
    def no_scores(cls) -> PlanError:
        return cls("score: the scorer has no score for any unit of this model. Choose another one (score.use).")

    @classmethod
    def only_experts(cls, scorer: str, model_type: str) -> PlanError:
        return cls(
            f"score.use: '{scorer}' scores experts, and the model ('{model_type}') has none. Choose another scorer, such as curvature."
        )

    @classmethod
    def too_few_experts(cls, layer: int, axis: str, kept: int, least: int) -> PlanError:
        return cls(
            f"Plan of layer {layer}, {axis}: {kept} experts would be kept, but each token goes to {least}: keep as many, or none. "
            "Plan again (hgsp plan); if a plugin made the plan, this is a bug in it."
        )

    @classmethod
    def uneven_heads(cls, layer: int, axis: str, heads: int) -> PlanError:
        return cls(
            f"Plan of layer {layer}, {axis}: every kept unit must keep the same number of query heads, at least one, indexed below {heads} "
            "without repeats. Plan again (hgsp plan); if a plugin made the plan, this is a bug in it."
        )

    @classmethod
    def units_of_heads(cls, layer: int, axis: str) -> PlanError:
        return cls(
            f"The reconstructor kept other units than planned in layer {layer}, {axis}, where single query heads are removed. "
            "Use reconstruct.use: least-squares, or allocate.with.query_heads: false."
        )

    @classmethod
    def no_head_scores(cls, layer: int, axis: str) -> PlanError:
        return cls(
            f"allocate.with.query_heads: the scorer gives no scores for the query heads of layer {layer}, {axis}. "
            "Use score.use: taylor, or set allocate.with.query_heads: false."
        )

    @classmethod
    def given_back(cls, allocator: str) -> PlanError:
        return cls(
            f"allocate.use: '{allocator}' kept units that an earlier iterative step had removed, so its steps do not "
            "form a plan. Set iterative_steps: 1, or use another allocator."
        )

    @classmethod
    def no_ratio(cls, allocator: str) -> PlanError:
        return cls(
            f"iterative_steps: the allocator '{allocator}' has no parameter 'ratio' to raise step by step. Set iterative_steps: 1."
        )

    @classmethod
    def score_shape(cls, layer: int, axis: str, units: int, shape: tuple[int, ...]) -> PlanError:
        return cls(
            f"The scorer returned an array of shape {shape} for layer {layer}, {axis}; it needs one number for each of {units} units. "
            "This is a bug in the scorer's plugin."
        )

    @classmethod
    def score_not_finite(cls, layer: int, axis: str, index: int) -> PlanError:
        return cls(
            f"The score of layer {layer}, {axis}, unit {index} is not a finite number. "
            "This is a bug in the scorer or a normalizer: try score.use: taylor and normalize: []."
        )

    @classmethod
    def no_prior(cls, layer: int) -> PlanError:
        return cls(
            f"The prior of layer {layer} is not a finite number, so the layers cannot be compared. "
            "Use another prior (prior.use), or set allocate.with.temperature: 0, which needs none."
        )

    @classmethod
    def no_such_layer(cls, key: str, value: int, layers: int, highest: int) -> PlanError:
        return cls(f"{key}: {value} is outside the model, which has {layers} layers. Use {highest} at most.")

    @classmethod
    def ratio_impossible(cls, ratio: float, of: str, largest: float, limits: Sequence[str]) -> PlanError:
        what = "all parameters" if of == "total" else "the decoder layers' parameters"
        largest = int(largest * 10_000) / 10_000
        cause, fix = "because every model must keep some units", "Lower the ratio."
        if limits:
            cause, fix = f"with these limits:  {', '.join(limits)}", "Lower the ratio or loosen a limit."
        start = f"allocate.with.ratio: {ratio:g} of {what} cannot be removed"
        return cls(f"{start}; at most {largest:g} is possible, {cause}. {fix}")

    @classmethod
    def too_many_layers(cls, asked: int, most: int, limits: Sequence[str]) -> PlanError:
        under = f" with these limits: {', '.join(limits)}" if limits else ", because one must be kept"
        return cls(f"allocate.with.n_remove_layers: {asked} layers cannot be removed; at most {most} can{under}.")

    @classmethod
    def ratio_below_layer_min(cls, ratio: float, least: float, limits: Sequence[str]) -> PlanError:
        least = -(-least * 10_000 // 1) / 10_000
        return cls(
            f"allocate.with.ratio: {ratio:g} is below the minimum rates of the layers, {least:g} in total, "
            f"with these limits: {', '.join(limits)}. Raise the ratio or lower allocate.with.limits.layer_min_rate."
        )
