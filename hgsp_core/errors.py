"""Every message a user can meet: what was wrong, where, and the fix.

Raised where the fault is known; only the CLI turns one into a message on stderr and exit code 2.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from hgsp_core.outside import without_credentials

#: characters of a line of a message, and of a value that it repeats
_LONGEST_LINE, _LONGEST_VALUE = 1200, 100

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _LONGEST_VALUE


def shown(value: object) -> str:
    """A value as a message repeats it: as Python writes it, on one line, and shortened."""
    try:
        text = _REPR.repr(value)
    except ValueError:  # a number of thousands of digits
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


class HgspError(Exception):
    """A fault that the user can mend. `str(error)` is the whole message: place, fault, fix.

    It may quote anything from outside: credentials, control characters and the middle of long lines are left out.
    """

    def __init__(self, text: str = ""):
        super().__init__("\n".join(map(_line, without_credentials(text).split("\n"))))


def _line(text: str) -> str:
    if len(text) > _LONGEST_LINE:
        text = f"{text[: _LONGEST_LINE // 2]} … {text[-_LONGEST_LINE // 2 :]}"
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` or, where nothing is near, the names there are; empty where there are none."""
    known = sorted(set(known))
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(known)}." if known else ""


def _library_words(error: Exception, place: str) -> str:
    """What a library raised about the values in `place`; Python's own words for a wrong value say nothing without that."""
    reason = str(error).strip() or type(error).__name__
    if isinstance(error, (ArithmeticError, AttributeError, LookupError, TypeError)) or type(error) is ValueError:
        return f"{type(error).__name__}: {reason.rstrip('.')}. It is about a value in {place}."
    return reason


class RecipeError(HgspError):
    """A recipe that cannot be used: syntax, unknown key, wrong type or range."""

    @classmethod
    def at(cls, source: str, place: str, fault: str, fix: str = "") -> RecipeError:
        return cls(f"{source}: {place}: {fault}{' ' + fix if fix else ''}")


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
        return cls(
            f"Tensor '{name}' has the shape {tuple(shape)}, but its weight has {weight[0]} rows. "
            "The checkpoint is damaged: download or save it again."
        )

    @classmethod
    def unaccounted(cls, names: Sequence[str], model_type: str) -> LayoutError:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return cls(
            f"The architecture '{model_type}' does not account for tensor(s) {', '.join(names[:3])}{more}. "
            "Pruning would leave them at the wrong size, so the model is refused; it needs an architecture plugin of its own "
            "(hgsp plugins new architecture NAME)."
        )

    @classmethod
    def indivisible(cls, name: str, shape: Sequence[int], dim: int, units: int, key: str) -> LayoutError:
        return cls(
            f"Tensor '{name}' has {shape[dim]} rows along dimension {dim}, which {units} units ('{key}' in config.json) do not divide. "
            "config.json and the weights disagree: check that they belong together."
        )

    @classmethod
    def not_a_matrix(cls, name: str, shape: Sequence[int]) -> LayoutError:
        return cls(
            f"Tensor '{name}' has the shape {tuple(shape)}, where rows and columns are needed. "
            "The checkpoint is damaged: download or save it again."
        )

    @classmethod
    def bad_count(cls, key: str, value: object) -> LayoutError:
        given = "is missing" if value is None else f"is {value!r}, not a whole number above 0"
        return cls(f"config.json: '{key}' {given}. Download or save the model again.")

    @classmethod
    def other_rows(cls, name: str, rows: int, expected: int, why: str) -> LayoutError:
        return cls(
            f"Tensor '{name}' has {rows} rows, but config.json says {expected} ({why}). "
            "config.json and the weights disagree: check that they belong together."
        )

    @classmethod
    def no_units(cls, key: str) -> LayoutError:
        return cls(f"config.json has no '{key}', so the units of the model cannot be counted. Add it to config.json.")


class PlanError(HgspError):
    """A plan or an allocation that does not fit the model."""

    @classmethod
    def other_model(cls, what: str, planned: int, there: int) -> PlanError:
        return cls(
            f"plan.json is for another model: it has {planned} {what}, the model has {there}. "
            "Use it with the model named in its 'model' entry, or plan again (hgsp plan)."
        )

    @classmethod
    def bad_units(cls, layer: int, axis: str, units: int) -> PlanError:
        return cls(
            f"plan.json: layer {layer}, {axis}: 'kept' must be ascending indices below {units}, without repeats. Plan again (hgsp plan)."
        )

    @classmethod
    def other_count(cls, layer: int, axis: str, planned: int, kept: Sequence[int]) -> PlanError:
        return cls(
            f"The reconstructor kept {len(set(kept))} units in layer {layer}, {axis}; the plan keeps {planned}. "
            "This is a fault of the reconstructor's plugin."
        )

    @classmethod
    def uneven_heads(cls, layer: int, axis: str, heads: int) -> PlanError:
        return cls(
            f"Plan of layer {layer}, {axis}: every kept unit must keep as many query heads, one or more, as indices below {heads} "
            "without repeats. Plan again (hgsp plan); if a plugin made it, this is its fault."
        )

    @classmethod
    def units_of_heads(cls, layer: int, axis: str) -> PlanError:
        return cls(
            f"The reconstructor kept other units than planned in layer {layer}, {axis}, where single query heads go. "
            "Use reconstruct.use: least-squares, or allocate.with.query_heads: false."
        )

    @classmethod
    def no_head_scores(cls, layer: int, axis: str) -> PlanError:
        return cls(
            f"allocate.with.query_heads: the scorer says nothing about the query heads of layer {layer}, {axis}. "
            "Use score.use: taylor, or set allocate.with.query_heads: false."
        )

    @classmethod
    def given_back(cls, allocator: str) -> PlanError:
        return cls(
            f"allocate.use: '{allocator}' kept units in one iterative step that the step before had removed, so its steps do not "
            "add up to a plan. Set iterative_steps: 1, or use another allocator."
        )

    @classmethod
    def no_ratio(cls, allocator: str) -> PlanError:
        return cls(
            f"iterative_steps: the allocator '{allocator}' has no parameter 'ratio' that could grow step by step."
        )

    @classmethod
    def score_shape(cls, layer: int, axis: str, units: int, shape: tuple) -> PlanError:
        return cls(
            f"The scorer returned an array of shape {shape} for layer {layer}, {axis}; it needs one number for each of {units} units. "
            "This is a fault of the scorer's plugin."
        )

    @classmethod
    def score_not_finite(cls, layer: int, axis: str, index: int) -> PlanError:
        return cls(
            f"The score of layer {layer}, {axis}, unit {index} is not a finite number. "
            "This is a fault of the scorer or of a normalizer: try score.use: taylor and normalize: []."
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
        if limits:
            cause, fix = f"with these limits: {', '.join(limits)}", "Lower the ratio or loosen a limit."
        else:
            cause, fix = "as some units must stay in every model", "Lower the ratio."
        return cls(f"allocate.with.ratio: {ratio:g} of {what} cannot go, {largest:g} at most, {cause}. {fix}")

    @classmethod
    def too_many_layers(cls, asked: int, most: int, limits: Sequence[str]) -> PlanError:
        under = f" with these limits: {', '.join(limits)}" if limits else ", as one must stay"
        return cls(f"allocate.with.n_remove_layers: {asked} layers cannot go, {most} at most{under}. Lower it.")

    @classmethod
    def ratio_below_layer_min(cls, ratio: float, least: float, limits: Sequence[str]) -> PlanError:
        least = -(-least * 10_000 // 1) / 10_000
        return cls(
            f"allocate.with.ratio: {ratio:g} is less than what every layer must lose, {least:g} together, "
            f"with these limits: {', '.join(limits)}. Raise the ratio or lower allocate.with.limits.layer_min_rate."
        )


class PluginError(HgspError):
    """A method that nobody provides, that two provide, or whose plugin is broken."""

    @classmethod
    def unknown(cls, kind: str, name: str, hint: str, broken: Sequence[tuple[str, str]]) -> PluginError:
        note = "".join(f"\nThe installed plugin '{d}' is broken and may be the one meant: {r}" for d, r in broken)
        return cls(f"There is no {kind} '{name}'.{hint} See all with: hgsp plugins list{note}")

    @classmethod
    def not_installed(cls, kind: str, name: str, distribution: str) -> PluginError:
        return cls(f"The {kind} '{name}' is in a known plugin that is not installed: pip install {distribution}")

    @classmethod
    def ambiguous(cls, kind: str, name: str, distributions: Sequence[str]) -> PluginError:
        choices = " or ".join(f"'{d}/{name}'" for d in distributions)
        return cls(f"The {kind} '{name}' is provided by {' and '.join(distributions)}. Write {choices} in the recipe.")

    @classmethod
    def misspelled_hook(cls, name: str, hint: str) -> PluginError:
        return cls(f"it implements '{name}', which is no hook of hgsp.{hint}")

    @classmethod
    def unmarked_hook(cls, name: str) -> PluginError:
        return cls(f"its '{name}' is not marked: put @hookimpl (from hgsp_core import hookimpl) above it.")

    @classmethod
    def provides_nothing(cls) -> PluginError:
        return cls("it provides nothing: no hook of it returned a method or an architecture.")

    @classmethod
    def doubled(cls, kind: str, name: str) -> PluginError:
        return cls(f"it provides the {kind} '{name}' twice; rename one of them.")

    @classmethod
    def wrong_type(cls, hook: str, wanted: str, got: str) -> PluginError:
        return cls(f"its '{hook}' must return a list of {wanted}, not of {got}.")

    @classmethod
    def other_api(cls, name: str, api: int, ours: int) -> PluginError:
        return cls(
            f"its '{name}' is written for plugin API {api}, this hgsp-core speaks {ours}; install a matching version."
        )

    @classmethod
    def slash(cls, name: str) -> PluginError:
        return cls(f"its name '{name}' contains '/', which separates a distribution from a name.")

    @classmethod
    def target(cls, distribution: str, name: str, target: str, error: Exception) -> PluginError:
        return cls(
            f"'{name}' of the plugin '{distribution}' cannot be used: loading {target} failed with "
            f"{type(error).__name__}: {error}. Reinstall or update it: pip install -U {distribution}"
        )


class DataError(HgspError):
    """A dataset that is not there, cannot be read, or is too short."""

    @classmethod
    def params(cls, place: str, name: str, error, known: Sequence[str]) -> DataError:
        fault = error.errors()[0]
        key = ".".join(str(p) for p in fault["loc"])
        if fault["type"] == "extra_forbidden":
            return cls(f"{place}: the dataset '{name}' has no parameter '{key}'.{did_you_mean(key, known)}")
        return cls(f"{place}: the dataset '{name}', parameter '{key}': {fault['msg']} (given: {fault['input']!r}).")

    @classmethod
    def empty(cls, name: str) -> DataError:
        return cls(f"The dataset '{name}' holds no text. Choose another one, or check the file.")

    @classmethod
    def too_short(cls, name: str, there: int, samples: int, seq_len: int) -> DataError:
        fewer = f"calibrate.samples (to {there} at most) or " if there else ""
        return cls(
            f"The dataset '{name}' has only {there} windows of {seq_len} tokens, {samples} are asked for. "
            f"Use a longer text, or lower {fewer}calibrate.seq_len."
        )

    @classmethod
    def no_row(cls, name: str, token: str, index: int, rows: int) -> DataError:
        return cls(
            f"The dataset '{name}' has the token {token!r}, whose id is {index}, but the model's embedding has {rows} rows (ids 0 to "
            f"{rows - 1}). The tokenizer is of another model, or tokens were added to it and the embedding was not enlarged "
            "(model.resize_token_embeddings). Use the model's own tokenizer, or a text without that token."
        )

    @classmethod
    def no_window(cls, name: str, seq_len: int) -> DataError:
        return cls(
            f"The dataset '{name}' has fewer than {seq_len} tokens: not one window to evaluate. Lower seq_len or use more text."
        )

    @classmethod
    def no_file(cls, path: str, near: Iterable[str]) -> DataError:
        return cls(f"There is no file '{path}'.{did_you_mean(path.rpartition('/')[2], near)}")

    @classmethod
    def suffix(cls, path: str, known: Sequence[str]) -> DataError:
        return cls(f"'{path}' is not a text file that can be read: its name must end in {', '.join(known)}.")

    @classmethod
    def unreadable(cls, path: str, error: Exception) -> DataError:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return cls(f"'{path}' cannot be read: {reason}")

    @classmethod
    def no_column(cls, name: str, column: str, there: Sequence[str]) -> DataError:
        return cls(f"'{name}' has no column '{column}' (with: {{column: NAME}}).{did_you_mean(column, there)}")

    @classmethod
    def hub(cls, name: str, error: Exception) -> DataError:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return cls(
            f"The dataset '{name}' could not be loaded from the hub: {reason}\n"
            "Check its name and the network (HF_HUB_OFFLINE), or use a local file, or the built-in dataset 'pydoc'."
        )


class OutputError(HgspError):
    """A result that is in the way, or a place that cannot be written."""

    @classmethod
    def exists(cls, path: str) -> OutputError:
        return cls(
            f"output: '{path}' exists and is not overwritten. Choose another with --output DIR, or move it away."
        )

    @classmethod
    def busy(cls, path: str) -> OutputError:
        return cls(
            f"output: another run is writing '{path}' at this moment. Wait for it, or choose another with --output DIR."
        )

    @classmethod
    def cannot_make(cls, path: str, error: OSError) -> OutputError:
        return cls(
            f"output: '{path}' cannot be made: {error.strerror or error}. Choose another place with --output DIR."
        )


class NumericError(HgspError):
    """NaN or infinity in the weights, or coming out of a layer, the loss or a collector."""

    @classmethod
    def overflow(cls, tensor: str, value: float, dtype: str, largest: float) -> NumericError:
        return cls(
            f"model.dtype: '{tensor}' holds {value:g}, which {dtype} cannot (at most {largest:g}). "
            "Use model.dtype: bfloat16, which has the range of float32, or float32."
        )

    @classmethod
    def weight(cls, tensor: str) -> NumericError:
        return cls(
            f"The tensor '{tensor}' holds NaN or infinity. The checkpoint is damaged: download or save it again."
        )

    @classmethod
    def activation(cls, layer: int, tensor: str, dtype: str) -> NumericError:
        return cls(
            f"Layer {layer}: {tensor} is NaN or infinite in {dtype}, although the weights are finite. "
            "Use a dtype of more range (model.dtype: float32 or bfloat16)."
        )

    @classmethod
    def loss(cls, value: float, dtype: str) -> NumericError:
        return cls(
            f"The loss over the calibration set is {value} in {dtype}, although every layer's output is finite: "
            "look at the final norm and the head, or use a dtype of more range (model.dtype: float32 or bfloat16)."
        )

    @classmethod
    def evaluation(cls, value: float, dtype: str) -> NumericError:
        return cls(
            f"The loss over the evaluation text is {value} in {dtype}. Use a dtype of more range (float32 or bfloat16); "
            "if it stays so, the weights are damaged."
        )

    @classmethod
    def statistic(cls, layer: int, collector: str, name: str) -> NumericError:
        return cls(
            f"Layer {layer}: the statistic '{name}' of {collector} is NaN or infinite, although what it was made from is finite."
        )


class SweepError(HgspError):
    """A sweep that cannot be run as asked."""

    @classmethod
    def nothing_to_judge(cls, held_out: int, samples: int) -> SweepError:
        return cls(
            f"allocate.with.samples: {held_out} windows are to judge plans, and calibrate.samples is {samples}; some must be left to "
            "measure the model on. Ask for fewer, or raise calibrate.samples."
        )

    @classmethod
    def nothing_to_confirm(cls, held_out: int, samples: int) -> SweepError:
        return cls(
            f"allocate.with.moves: {held_out} of the {samples} windows (calibrate.samples) judge blocks, and moves hold where they do "
            f"better on both halves of the others, of at least two windows each. Set calibrate.samples to {held_out + 4} or more, "
            "or moves to 0."
        )

    @classmethod
    def unknown_token(cls, token: int, rows: int) -> SweepError:
        return cls(
            f"The tokenizer gave token {token}, but the model's embedding has {rows} rows: tokenizer and weights do not belong "
            "together. Copy the original model's tokenizer files into its directory."
        )

    @classmethod
    def nothing_to_hold_out(cls, samples: int) -> SweepError:
        return cls(
            f"reconstruct: {samples} calibration sample cannot be split into one to fit on and one to judge by. "
            "Raise calibrate.samples to at least 2."
        )

    @classmethod
    def too_short(cls, seq_len: int) -> SweepError:
        return cls(
            f"Calibration samples have {seq_len} token(s); the loss needs at least 2, one to read and one to predict. "
            "Raise calibrate.seq_len."
        )

    @classmethod
    def no_tokens(cls) -> SweepError:
        return cls("The calibration set holds no sample. Raise calibrate.samples to at least 1.")

    @classmethod
    def too_many_processes(cls, processes: int, parts: int) -> SweepError:
        return cls(
            f"{processes} processes share a calibration set that has only {parts} part(s) to share. "
            f"Start at most {parts} (--nproc-per-node), or raise calibrate.samples."
        )

    @classmethod
    def graphs_streamed(cls) -> SweepError:
        return cls(
            "memory: graphs needs the whole model in memory, and its weights are streamed. Use memory: auto, cpu or disk."
        )

    @classmethod
    def no_room(cls, memory: str, needed: str, free: str, share: float) -> SweepError:
        helps = {"graphs": "memory: device", "device": "memory: cpu or disk", "cpu": "memory: disk"}.get(
            memory, "a larger disk for temporary files (TMPDIR)"
        )
        return cls(
            f"memory: {memory}: the sweep would keep {needed}, and {free} are free (it takes {share:.0%} of that at the most). "
            f"Use {helps}, or lower calibrate.samples."
        )

    @classmethod
    def out_of_memory(cls, free: str, error: Exception) -> SweepError:
        return cls(
            f"The sweep ran out of memory with {free} free: {str(error).splitlines()[0]} "
            "Lower calibrate.batch_size, use memory: cpu or disk, or stream the weights."
        )


class CheckpointError(HgspError):
    """A model directory that cannot be read, written or trusted."""

    @classmethod
    def no_directory(cls, path: Path) -> CheckpointError:
        return cls(
            f"There is no model directory '{path}'. Give the directory that holds config.json and the safetensors files."
        )

    @classmethod
    def no_config(cls, path: Path) -> CheckpointError:
        return cls(
            f"'{path}' has no config.json, so it is not a Hugging Face model directory. Check the path, or download it again."
        )

    @classmethod
    def bad_json(cls, path: Path, reason: str) -> CheckpointError:
        return cls(f"'{path}' cannot be read: {reason}. Download or save the model again.")

    @classmethod
    def no_weights(cls, path: Path) -> CheckpointError:
        return cls(f"'{path}' has no model.safetensors and no model.safetensors.index.json. Download the weights too.")

    @classmethod
    def pickles(cls, path: Path, names: Sequence[str]) -> CheckpointError:
        return cls(
            f"'{path}' has no safetensors, only {', '.join(names[:3])}. Pickles are not read, because opening one runs its code. "
            f"If you trust it, convert it: AutoModelForCausalLM.from_pretrained('{path}').save_pretrained('NEW_DIRECTORY')."
        )

    @classmethod
    def damaged(cls, path: Path, error: Exception) -> CheckpointError:
        return cls(f"'{path}' is damaged or incomplete: {error}. Download or save the model again.")

    @classmethod
    def no_shard(cls, path: Path, index: str) -> CheckpointError:
        return cls(f"'{path}' is missing, but {index} lists it. Download that file, or the model again.")

    @classmethod
    def in_two_shards(cls, name: str, one: Path, other: Path) -> CheckpointError:
        return cls(
            f"The tensor '{name}' is in both '{one}' and '{other}', so which one counts is not defined. Download or save the model again."
        )

    @classmethod
    def gguf(cls, path: Path) -> CheckpointError:
        return cls(
            f"'{path}' is a GGUF model, which is made for llama.cpp and mostly quantised; it cannot be pruned. Give the Hugging Face "
            "directory (config.json and safetensors) that it was made from, and export the result with: hgsp export RUN --to gguf"
        )

    @classmethod
    def file(cls, path: Path) -> CheckpointError:
        return cls(f"'{path}' is a file. Give the directory that holds config.json and the safetensors files.")

    @classmethod
    def adapter(cls, path: Path) -> CheckpointError:
        return cls(
            f"'{path}' holds an adapter (adapter_config.json), not a model. Merge it into its base model first: "
            f"AutoPeftModelForCausalLM.from_pretrained('{path}').merge_and_unload().save_pretrained('NEW_DIRECTORY'), "
            "and save the tokenizer there too."
        )

    @classmethod
    def hub_cache(cls, path: Path, snapshots: Sequence[Path]) -> CheckpointError:
        which = (
            f"one of its snapshots: '{snapshots[-1]}'"
            if snapshots
            else "a snapshot; it has none, so download the model again"
        )
        return cls(f"'{path}' is a folder of the hub's cache, not a model directory. Give the hub id, or {which}.")

    @classmethod
    def other_task(cls, path: Path, name: str) -> CheckpointError:
        return cls(
            f"'{path}': architectures: {name} is not a language model: it has no head that predicts tokens. "
            "Give the model that it was trained from, or another one whose class ends in ForCausalLM."
        )

    @classmethod
    def wrapped(cls, path: Path, name: str, part: str, wrapper: str) -> CheckpointError:
        return cls(
            f"'{path}': the tensor '{name}' has '{part}' in its name: the checkpoint was saved from inside {wrapper}, and no "
            f"program finds its weights. Save the model itself, or rename the tensors without '{part}'."
        )

    @classmethod
    def no_prefix(cls, path: Path | str, prefix: str) -> CheckpointError:
        return cls(
            f"'{path}': the names of the tensors lack '{prefix}.' in front: this was saved from the base class, without a head. "
            f"Save the language model: AutoModelForCausalLM.from_pretrained('{path}').save_pretrained('NEW_DIRECTORY'). "
            "Check its answers first: a head that is not the embedding is missing."
        )

    @classmethod
    def other_head(cls, path: Path | str, head: str, embed: str) -> CheckpointError:
        return cls(
            f"'{path}': config.json has tie_word_embeddings: true, but '{head}' is stored and differs from '{embed}'. transformers 5 "
            "would use it, older versions would not. Set tie_word_embeddings to false to keep this head, or delete the tensor."
        )

    @classmethod
    def no_window(cls, path: Path | str) -> CheckpointError:
        return cls(
            f"'{path}': config.json: layer_types has sliding_attention, but sliding_window is not set to a number of tokens (or "
            "use_sliding_window is false). Set the window, or make these layers full_attention."
        )

    @classmethod
    def number_type(cls, path: Path, key: str, value: str, known: Sequence[str]) -> CheckpointError:
        return cls(
            f"'{path}': {key} is {shown(value)}. Use the model in one of: {', '.join(known)}; then that is its {key}."
        )

    @classmethod
    def token_id(cls, path: Path | str, key: str, value: object, rows: int) -> CheckpointError:
        return cls(
            f"'{path}': {key} is {value}, but the embedding has {rows} rows (ids 0 to {rows - 1}), so transformers cannot build "
            f"the model. Set {key} to null or to an id below {rows}, or enlarge the embedding: model.resize_token_embeddings(N)."
        )

    @classmethod
    def not_in_shard(cls, name: str, path: Path, index: str) -> CheckpointError:
        return cls(
            f"'{path}' does not hold the tensor '{name}', but {index} says so. Download or save the model again."
        )

    @classmethod
    def not_loaded(cls, path: Path | str, error: Exception) -> CheckpointError:
        place = Path(path).name if str(path).endswith(".json") else "config.json"
        return cls(f"transformers cannot load '{path}': {_library_words(error, place)}")

    @classmethod
    def missing_keys(cls, path: Path | str, names: Sequence[str]) -> CheckpointError:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return cls(
            f"'{path}' has no weights for {', '.join(names[:3])}{more}; transformers would make them up at random. "
            "config.json and the weights do not belong together: download or save the model again."
        )

    @classmethod
    def no_place(cls, path: Path | str, names: Sequence[str]) -> CheckpointError:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return cls(
            f"'{path}': config.json has no place for {', '.join(names[:3])}{more}; transformers would leave them out. A setting such as "
            "attention_bias or tie_word_embeddings is wrong, or config.json and the weights do not belong together."
        )

    @classmethod
    def other_shape(
        cls, path: Path | str, name: str, stored: Sequence[int], expected: Sequence[int]
    ) -> CheckpointError:
        return cls(
            f"'{path}': the tensor '{name}' has the shape {tuple(stored)}, but by config.json it has {tuple(expected)}. "
            "config.json and the weights do not belong together: download or save the model again."
        )

    @classmethod
    def own_code(cls, path: Path | str, names: Sequence[str]) -> CheckpointError:
        return cls(
            f"'{path}': auto_map: the model brings code of its own ({', '.join(names)}), which may compute something else than its "
            "model_type says; it is not run, and not guessed at. Take 'auto_map' out of config.json if the stock class is meant."
        )

    @classmethod
    def own_kernel(cls, path: Path | str, key: str, name: str) -> CheckpointError:
        return cls(
            f"'{path}': {key}: '{name}' is a kernel of the hub: code, which is not fetched and not run. Take {key} out of config.json."
        )

    @classmethod
    def own_tokenizer(cls, path: Path | str, names: Sequence[str]) -> CheckpointError:
        return cls(
            f"'{path}': auto_map: the tokenizer is code of the model's own ({', '.join(names)}), which is not run, and there is no "
            "tokenizer.json, which would do without. Put a tokenizer.json (a fast tokenizer's save_pretrained writes it) beside it."
        )

    @classmethod
    def other_code(cls, fault: str) -> CheckpointError:
        return cls(
            f"{fault}. It is not run: write the model again (hgsp export DIR --to huggingface), which ships hgsp-core's own."
        )

    @classmethod
    def panic(cls, error: BaseException) -> CheckpointError:
        return cls(
            f"The library that reads tokenizers and weights gave up: {str(error).strip()}. A file of the model, most likely "
            "tokenizer.json, holds values that cannot be: download or save the model again."
        )

    @classmethod
    def no_tokenizer(cls, path: Path, error: Exception) -> CheckpointError:
        reason = _library_words(error, "its files").splitlines()[0]
        return cls(
            f"'{path}' has no tokenizer that can be read: {reason} Copy the original model's tokenizer files into it."
        )

    @classmethod
    def exists(cls, path: Path) -> CheckpointError:
        return cls(f"'{path}' exists and is not overwritten. Choose another directory, or move it away.")

    @classmethod
    def no_room(cls, path: Path, needed: int, free: int) -> CheckpointError:
        return cls(
            f"'{path}' needs {needed / 1e9:,.3f} GB and the disk has {free / 1e9:,.3f} GB free. Nothing was written; make room or "
            "choose another place (--output DIR)."
        )

    @classmethod
    def not_written(cls, path: Path, error: Exception, needed: int, free: int) -> CheckpointError:
        return cls(
            f"'{path}' cannot be written: {error}. Its weights take {needed / 1e9:,.3f} GB, and the disk has {free / 1e9:,.3f} GB "
            "free. Nothing of it was kept; make room or choose another place."
        )

    @classmethod
    def not_reloaded(cls, path: Path, output: str) -> CheckpointError:
        reason = "\n".join(output.strip().splitlines()[-5:])
        return cls(f"'{path}' was written, but a fresh process cannot load it:\n{reason}")

    @classmethod
    def differs(cls, path: Path, difference: float) -> CheckpointError:
        return cls(
            f"'{path}' was written, but reloaded its logits differ by {difference:g} from those in memory, and must not differ at all. "
            "The disk or the memory is faulty, or this is a bug: please report it."
        )

    @classmethod
    def no_model_type(cls, path) -> CheckpointError:
        return cls(
            f"'{path}' has no 'model_type', so the model's family is not known. Download or save the model again."
        )

    @classmethod
    def pruned_already(cls, path) -> CheckpointError:
        return cls(
            f"'{path}' is of a model that is pruned already, with layers of different sizes. Prune the original model by a "
            "larger ratio instead, or start from a model with equal layers (allocate: {use: uniform, with: {uniform: true}})."
        )

    @classmethod
    def quantised(cls, path, stored: str, known: Sequence[str]) -> CheckpointError:
        return cls(f"'{path}' stores {stored}, which cannot be pruned. Use the model in one of: {', '.join(known)}.")

    @classmethod
    def no_safetensors(cls, name: str) -> CheckpointError:
        return cls(
            f"model.path: the hub's '{name}' has no model.safetensors and no model.safetensors.index.json; pickles and GGUF files "
            "are not read. Use a repository or a revision (model.revision) that has safetensors."
        )

    @classmethod
    def hub(cls, name: str, error: Exception) -> CheckpointError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return cls(
            f"model.path: '{name}' is no local directory, and it could not be fetched from the hub: {reason}\n"
            "Check the name, the network (HF_HUB_OFFLINE) and your access to it, or give a local directory."
        )


class ResourceError(HgspError):
    """Memory or disk that ran out."""

    @classmethod
    def memory(cls, reason: str) -> ResourceError:
        return cls(
            f"Out of memory{f' ({reason})' if reason else ''}. These settings help, the first ones most: "
            "--set model.dtype=bfloat16, --set calibrate.batch_size=1, a smaller calibrate.seq_len, "
            "--set device=cpu where the GPU is the small one. What was measured so far is kept and is not repeated."
        )

    @classmethod
    def socket(cls, directory: str) -> ResourceError:
        return cls(
            f"TMPDIR: the path '{directory}' is too long for the sockets between processes (about 70 characters). "
            "Set TMPDIR to a shorter one."
        )

    @classmethod
    def disk(cls, reason: str) -> ResourceError:
        return cls(
            f"No space left on the disk ({reason}). Make room, or choose another disk: --output DIR for the result, "
            "--cache DIR (or HGSP_CACHE) for the store, TMPDIR for temporary files. Then run it again."
        )


class PriorFileError(HgspError):
    """A file of priors that cannot be used."""

    @classmethod
    def unreadable(cls, path, error: Exception) -> PriorFileError:
        return cls(
            f"prior.with.path: '{path}' cannot be read as priors ({type(error).__name__}: {error}). It must be JSON of the form "
            '{"layer": [a number each layer], "blocks": {"attention": [...], "mlp": [...]}}, as layer_importance.json of a run.'
        )

    @classmethod
    def unknown_axis(cls, path, axis: str, known: Sequence[str]) -> PriorFileError:
        return cls(f"prior.with.path: '{path}': blocks: the model has no axis '{axis}'.{did_you_mean(axis, known)}")

    @classmethod
    def other_length(cls, path, name: str, there: int, layers: int) -> PriorFileError:
        return cls(f"prior.with.path: '{path}': '{name}' has {there} numbers, the model has {layers} layers.")


class ProjectError(HgspError):
    """A plugin project that `hgsp plugins new` cannot write."""

    @classmethod
    def kind(cls, kind: str, known: Sequence[str]) -> ProjectError:
        return cls(f"There is no kind of plugin '{kind}'.{did_you_mean(kind, known)}")

    @classmethod
    def name(cls, name: str) -> ProjectError:
        return cls(
            f"'{name}' cannot be the name: write it in lower-case letters, digits and dashes, beginning with a letter, such as my-method."
        )

    @classmethod
    def taken(cls, name: str, distribution: str) -> ProjectError:
        return cls(
            f"'{name}' cannot be the name: its distribution would be '{distribution}', which exists. Choose another name."
        )

    @classmethod
    def model_type(cls, name: str, known: Iterable[str]) -> ProjectError:
        near = get_close_matches(name, list(known), n=1, cutoff=0.6)
        return cls(
            f"transformers knows no models with model_type '{name}'.{f' Did you mean {near[0]!r}?' if near else ''} "
            "An architecture is named by the model_type in its models' config.json."
        )

    @classmethod
    def exists(cls, path: Path) -> ProjectError:
        return cls(
            f"'{path}' exists and is not overwritten. Choose another place with --directory DIR, or move it away."
        )

    @classmethod
    def cannot_make(cls, path: Path, error: OSError) -> ProjectError:
        return cls(f"'{path}' cannot be made: {error.strerror or error}. Choose another place with --directory DIR.")


class PathError(HgspError):
    """A path that cannot be followed."""

    @classmethod
    def no_user(cls, path: str) -> PathError:
        return cls(f"'{path}' cannot be followed: there is no user {path.partition('/')[0]}. Write the path without ~.")

    @classmethod
    def characters(cls, path: str) -> PathError:
        return cls(f"{shown(path)} cannot be a path: it holds characters that no file name has. Write it in UTF-8.")

    @classmethod
    def too_long(cls, path: str, longest: int) -> PathError:
        return cls(f"{shown(path)} cannot be a path: one of its names is longer than {longest} bytes. Shorten it.")

    @classmethod
    def system(cls, error: OSError) -> PathError:
        place = f"'{error.filename}': " if error.filename else ""
        return cls(f"{place}{error.strerror or error}. Check the path, its permissions and the disk.")


class StoreError(HgspError):
    """A store of artifacts that cannot be written."""

    @classmethod
    def cannot_write(cls, root, error: OSError) -> StoreError:
        return cls(
            f"Artifacts cannot be kept in '{root}': {error.strerror or error}. Choose another place with --cache DIR or HGSP_CACHE."
        )


class EvaluationError(HgspError):
    """A measurement that cannot be made."""

    @classmethod
    def twice(cls, place: str, measure: str) -> EvaluationError:
        return cls(
            f"{place}: '{measure}' is measured twice; leave one of them out, or give a dataset another name (name: ...)."
        )

    @classmethod
    def streamed(cls, name: str) -> EvaluationError:
        return cls(
            f"evaluate: '{name}' needs the whole model in memory, but its weights are streamed. Use model.dtype: bfloat16, a device "
            "with more memory, or model.weights: resident; or leave it out here and run `hgsp eval` on the result elsewhere."
        )

    @classmethod
    def no_library(cls, name: str, library: str, extra: str) -> EvaluationError:
        return cls(
            f"evaluate: '{name}' needs the library {library}, which is not installed: pip install 'hgsp-core[{extra}]'"
        )

    @classmethod
    def unknown_tasks(cls, names: Sequence[str], known: Iterable[str], include_path: str | None) -> EvaluationError:
        known = sorted(known)
        nearest = {name: get_close_matches(name.lower(), known, n=3, cutoff=0.6) for name in names}
        each = "; ".join(f"'{n}'{f' (near: {chr(44).join(near)})' if near else ''}" for n, near in nearest.items())
        where = f" and in '{include_path}'" if include_path else ""
        return cls(f"evaluate: lm_eval: tasks: lm-eval{where} has no {each}. All names: lm-eval ls tasks")

    @classmethod
    def no_task_folder(cls, path: str) -> EvaluationError:
        return cls(
            f"evaluate: lm_eval: include_path: there is no directory '{path}'. Give the one that holds the tasks' YAML files."
        )

    @classmethod
    def task_code(cls, path: Path, code: str) -> EvaluationError:
        return cls(
            f"evaluate: lm_eval: include_path: '{path}' names code: {code}. It is not run. If you have read it and trust it, set "
            "trust_task_code: true beside include_path; else take it out of that file, or the file out of the directory."
        )

    @classmethod
    def template(cls, error: Exception) -> EvaluationError:
        return cls(
            f"evaluate: lm_eval: a template of a task fails: {error}. Mend the task's YAML file, or leave the task out."
        )

    @classmethod
    def task(cls, name: str, error: Exception) -> EvaluationError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return cls(
            f"evaluate: lm_eval: the task '{name}' cannot be prepared: {reason}\n"
            "Check the network (HF_HUB_OFFLINE) and the data that its YAML file names, or leave the task out."
        )

    @classmethod
    def overlap(cls, error: Exception) -> EvaluationError:
        return cls(f"evaluate: lm_eval: tasks: {error}. Leave one of the two out.")

    @classmethod
    def no_model_in_run(cls, path: Path) -> EvaluationError:
        return cls(
            f"The run '{path}' holds no model to evaluate: its recipe exported none. Run it with export: [{{use: huggingface}}]."
        )


class FlagError(HgspError):
    """Flags that contradict each other or the model, or that mean nothing together."""

    @classmethod
    def contradict(cls, one: tuple[str, object], other: tuple[str, object]) -> FlagError:
        return cls(
            f"{one[0]} {one[1]} and {other[0]} {other[1]} contradict each other: they set the same thing. Leave one of them out."
        )

    @classmethod
    def model_differs(cls, flag: str, given: int, model: str, there: int) -> FlagError:
        return cls(
            f"{flag} {given}: '{model}' has {there} (config.json). The number is read from the model; leave the flag out."
        )

    @classmethod
    def needs(cls, flag: str, other: str) -> FlagError:
        return cls(f"{flag} does nothing without {other}. Add {other}, or leave {flag} out.")

    @classmethod
    def excludes(cls, flag: str, other: str, why: str) -> FlagError:
        return cls(f"{flag} and {other} exclude each other: {why}. Leave one of them out.")

    @classmethod
    def unused(cls, flags: Sequence[str], command: str) -> FlagError:
        return cls(f"{command}: {', '.join(flags)} would do nothing together with the other flags. Leave it out.")

    @classmethod
    def nothing_to_measure(cls) -> FlagError:
        return cls("There is nothing to measure: --dataset none leaves no perplexity. Add --tasks or --efficiency.")

    @classmethod
    def other_key(cls, setting: str, part: str, example: str) -> FlagError:
        return cls(f"--set {setting}: only keys of '{part}' mean something here, such as {example}.")

    @classmethod
    def strategy(cls, chosen: str | None, goes_with: Mapping[str, Sequence[str]]) -> FlagError:
        """`goes_with`: flag -> the values of --pruning_strategy that take it."""
        wrong = {flag: names for flag, names in goes_with.items() if chosen is None or chosen not in names}
        listed = "; ".join(f"{flag}: {', '.join(names)}" for flag, names in (wrong or goes_with).items())
        if chosen is not None and wrong:
            return cls(f"--pruning_strategy {chosen} does not take {', '.join(wrong)}. What takes it: {listed}.")
        return cls(f"No --pruning_strategy takes {', '.join(goes_with)} together. What takes each: {listed}.")

    @classmethod
    def unknown(cls, flag: str, given: str, known: Iterable[str]) -> FlagError:
        return cls(f"{flag}: there is no '{given}'.{did_you_mean(given, known)}")

    @classmethod
    def not_understood(cls, flag: str, given: str, form: str) -> FlagError:
        return cls(f"{flag} {given}: write it as {form}.")

    @classmethod
    def required(cls, flag: str, example: str) -> FlagError:
        return cls(f"{flag} is required, for example: {example}")

    @classmethod
    def no_file(cls, flag: str, path: Path, near: Iterable[str]) -> FlagError:
        return cls(f"{flag}: there is no file '{path}'.{did_you_mean(path.name, near)}")


class GgufError(HgspError):
    """A model that GGUF cannot hold, or a GGUF file that cannot be written or trusted."""

    @classmethod
    def not_installed(cls) -> GgufError:
        return cls("export: 'gguf' needs the package gguf: pip install 'hgsp-core[gguf]'")

    @classmethod
    def family(cls, family: str, known: Sequence[str]) -> GgufError:
        return cls(
            f"export: GGUF files are written for the families {', '.join(known)}, not for '{family}'. "
            "Export it with export: [{use: huggingface}] instead."
        )

    @classmethod
    def setting(cls, key: str, value: object, known: Sequence[object]) -> GgufError:
        return cls(
            f"export: GGUF cannot hold a model with {key}: {value!r} in its config.json, only {', '.join(map(repr, known))}: "
            "llama.cpp would compute something else. Export it with export: [{use: huggingface}] instead."
        )

    @classmethod
    def biases(cls, names: Sequence[str]) -> GgufError:
        return cls(
            f"export: GGUF cannot hold '{names[0]}': llama.cpp's architectures with q and k norms know no biases. "
            "Export it with export: [{use: huggingface}] instead."
        )

    @classmethod
    def untied(cls) -> GgufError:
        return cls(
            "export: GGUF cannot hold this model: llama.cpp's only architecture with q and k norms whose layers may differ in size "
            "(openelm) has no head of its own. Give all layers one size (allocate: {use: uniform, with: {uniform: true}} or "
            "{use: depth}), which it can hold, or export it with export: [{use: huggingface}] instead."
        )

    @classmethod
    def tokenizer(cls, reason: str) -> GgufError:
        return cls(
            f"export: GGUF cannot hold this tokenizer: {reason}. llama.cpp would give other token ids. "
            "Export it with export: [{use: huggingface}] instead."
        )

    @classmethod
    def too_few_rows(cls, tokens: int, rows: int) -> GgufError:
        return cls(
            f"export: the tokenizer has {tokens} tokens, but the model's embedding only {rows} rows, which GGUF cannot hold. "
            "Check that tokenizer and weights belong together."
        )

    @classmethod
    def overflow(cls, tensor: str, value: float, kind: str, limit: float) -> GgufError:
        return cls(
            f"export: '{tensor}' holds {value:g}, too large for {kind} (at most {limit:g}). "
            "Set the exporter's type: bf16 or f32, which hold it."
        )

    @classmethod
    def not_written(cls, path: Path, error: Exception) -> GgufError:
        return cls(f"'{path}' cannot be written: {error}. Nothing of it was kept; make room or choose another place.")

    @classmethod
    def exists(cls, path: Path) -> GgufError:
        return cls(f"'{path}' exists and is not overwritten. Choose another directory, or move it away.")

    @classmethod
    def not_loaded(cls, path: Path, output: str) -> GgufError:
        reason = "\n".join(output.strip().splitlines()[-5:])
        return cls(f"'{path}' was written, but llama.cpp cannot load it:\n{reason}")

    @classmethod
    def damaged(cls, path: Path, error: Exception) -> GgufError:
        return cls(f"'{path}' is cut off, or no GGUF file ({type(error).__name__} while reading it). Export it again.")

    @classmethod
    def differs(cls, path: Path, output: str) -> GgufError:
        reason = "\n".join(output.strip().splitlines()[-3:])
        return cls(f"'{path}' was written, but read again it is not the checkpoint: {reason}. Please report this.")

    @classmethod
    def other_logits(cls, path: Path, difference: float, most: float) -> GgufError:
        return cls(
            f"'{path}' was written, but llama.cpp's logits differ from the checkpoint's by {difference:.2g} of their spread, and may "
            f"by {most:g}. This llama.cpp computes something else than it should: try another version, and please report this."
        )

    @classmethod
    def other_ids(cls, path: Path, text: str, theirs: Sequence[int], ours: Sequence[int]) -> GgufError:
        return cls(
            f"'{path}' was written, but llama.cpp tokenizes {text!r} as {list(theirs)}, the model's tokenizer as {list(ours)}. "
            "Export it with export: [{use: huggingface}] instead, and please report this."
        )


class RecoverError(HgspError):
    """Training after the cut that cannot be done as asked."""

    @classmethod
    def record(cls, name: str, number: int, fault: str, wanted: str) -> RecoverError:
        return cls(f"recover: record {number} of '{name}' {fault}. {wanted} Mend or remove that record.")

    @classmethod
    def no_format(cls, name: str, there: Sequence[str], column: str) -> RecoverError:
        return cls(
            f"recover: the records of '{name}' have the fields {', '.join(there)}: neither 'instruction' and 'output', nor 'messages', "
            f"nor '{column}'. Name the column of text with: records: {{options: {{column: NAME}}}}."
        )

    @classmethod
    def only_text(cls, name: str, wanted: str) -> RecoverError:
        return cls(
            f"recover: '{name}' is plain text, not records. Set records: {{format: text}} (or auto), or give {wanted} records."
        )

    @classmethod
    def too_few(cls, name: str, rows: int) -> RecoverError:
        return cls(
            f"recover: '{name}' gives {rows} row(s) to learn from; at least 2 are needed, one to train on and one held out. "
            "Use more data, or raise records.seq_len where answers were cut off."
        )

    @classmethod
    def no_template(cls, name: str) -> RecoverError:
        return cls(
            f"recover: '{name}' holds chats, but the model's tokenizer has no chat template. Add chat_template.jinja to the model's "
            "directory, or use records in instruction/input/output form."
        )

    @classmethod
    def slow_tokenizer(cls, name: str, kind: str) -> RecoverError:
        return cls(
            f"recover: '{name}' holds chats, and the model's tokenizer ({kind}) cannot tell which text a token stands for, so not what "
            "the assistant says. Save it with a tokenizer.json (a fast tokenizer), or use records in instruction/input/output form."
        )

    @classmethod
    def refused(cls, name: str, records: int, refused: Sequence[int], error: Exception) -> RecoverError:
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        which = f"record {refused[0]}" if len(refused) == 1 else f"records {', '.join(map(str, refused[:5]))}{more}"
        said = " ".join(str(error).split())[:300]
        return cls(
            f"recover: the tokenizer's chat template refuses {len(refused)} of {records} record(s) of '{name}', {which}, and says "
            f'"{said}". Leave them out, mend them, or give the model a template that takes them.'
        )

    @classmethod
    def batch(cls, batch: int, micro: int, processes: int) -> RecoverError:
        each = f"{processes} processes with {micro} rows each" if processes > 1 else f"parts of {micro} rows"
        return cls(
            f"recover: batch_size: {batch} rows cannot be made of {each}. Make batch_size a multiple of {micro * processes}, "
            "or change micro_batch_size."
        )

    @classmethod
    def no_teacher(cls) -> RecoverError:
        return cls(
            "recover: distill needs the dense model, and it is not known here. Name its directory with --dense DIR."
        )

    @classmethod
    def other_vocabulary(cls, teacher: Path, theirs: int, ours: int) -> RecoverError:
        return cls(
            f"recover: distill: '{teacher}' has a vocabulary of {theirs} tokens, the pruned model one of {ours}: "
            "it is not the model that was pruned. Give that one (--dense DIR)."
        )

    @classmethod
    def no_adapter(cls, path: Path, reason: str) -> RecoverError:
        return cls(
            f"recover: adapter: '{path}' is no LoRA adapter: {reason}. Give the directory that peft's save_pretrained wrote."
        )

    @classmethod
    def other_adapter(cls, path: Path, tensor: str, fault: str) -> RecoverError:
        return cls(
            f"recover: adapter: '{path}' was trained on another model: {tensor} {fault}. "
            "Use it on the model it was trained on, or leave `adapter` out to train a new one."
        )

    @classmethod
    def no_room(cls, needed: str, free: str, method: str) -> RecoverError:
        less = "recover: {use: lora}, " if method == "full" else ""
        return cls(
            f"recover: training needs the whole model in memory, {needed} at least, and {free} are free; weights cannot be streamed "
            f"here. Use {less}model.dtype: bfloat16, distill: false, or train the result on a larger machine (hgsp finetune)."
        )

    @classmethod
    def not_finite(cls, loss: float, dtype: str) -> RecoverError:
        return cls(
            f"recover: the loss of the pruned model on the training data is {loss} in {dtype} before any training: its weights or "
            "the range of that type are at fault. Prune again with model.dtype: float32 or bfloat16."
        )

    @classmethod
    def diverged(cls, step: int, rate: float) -> RecoverError:
        return cls(
            f"recover: the training loss is NaN or infinite in step {step}. Lower learning_rate (it is {rate:g}), "
            "or use schedule: {precision: float32}."
        )

    @classmethod
    def device(cls, device: str) -> RecoverError:
        index = device.partition(":")[2]
        return cls(
            f"recover: training in one process uses the first GPU that it sees, not '{device}'. "
            f"Set CUDA_VISIBLE_DEVICES={index} and device: cuda."
        )

    @classmethod
    def busy(cls, path: Path) -> RecoverError:
        return cls(f"recover: another run is doing this very training at this moment ('{path}'). Wait for it to end.")

    @classmethod
    def not_a_model(cls, path: Path, inside: Sequence[str]) -> RecoverError:
        several = f" It has several models: {', '.join(inside)}; name one of them." if inside else ""
        return cls(
            f"'{path}' is neither a model directory (config.json and safetensors) nor a run directory with one in it.{several}"
        )


class ExportError(HgspError):
    """A checkpoint that cannot be exported as asked."""

    @classmethod
    def bad_plan(cls, path: Path, error: Exception) -> ExportError:
        return cls(
            f"'{path}' cannot be read as a plan ({type(error).__name__}: {error}). Give the model's own directory instead."
        )

    @classmethod
    def other_plan(cls, path: Path) -> ExportError:
        return cls(
            f"'{path}' is for another model: the sizes that it leaves are not those of the model beside it. "
            "Give the model's own directory instead, which needs no plan."
        )


class VerifyError(HgspError):
    """A directory in which there is nothing to verify."""

    @classmethod
    def nothing(cls, path: Path) -> VerifyError:
        return cls(
            f"'{path}' holds nothing that can be verified: no config.json, no .gguf file and no hgsp.json, and it is no run directory. "
            "Give the directory of a model or of a run."
        )

    @classmethod
    def bad_report(cls, path: Path, error: Exception) -> VerifyError:
        return cls(f"'{path}' cannot be read as a run's report ({error}). Give the directory of its model instead.")


class CompareError(HgspError):
    """A run that cannot be compared."""

    @classmethod
    def no_directory(cls, path: Path, near: Iterable[str]) -> CompareError:
        close = get_close_matches(path.name, list(near), n=1)
        return cls(f"There is no run directory '{path}'.{f' Did you mean {close[0]!r}?' if close else ''}")

    @classmethod
    def unfinished(cls, path: Path) -> CompareError:
        return cls(
            f"The run '{path}' is not finished: it is being written, or was killed. Wait for it, or run its recipe again."
        )

    @classmethod
    def no_file(cls, path: Path) -> CompareError:
        return cls(
            f"'{path.parent}' has no {path.name}, so it is no finished run. Give directories that `hgsp run` or `hgsp sweep` wrote."
        )

    @classmethod
    def unreadable(cls, path: Path, error: Exception) -> CompareError:
        return cls(f"'{path}' cannot be read: {error}. Run its recipe again.")

    @classmethod
    def incomplete(cls, path: Path, error: Exception) -> CompareError:
        lacks = f" ({error} is missing)" if isinstance(error, KeyError) else ""
        return cls(
            f"The report.json or plan.json in '{path}' is not that of a run{lacks}. Run its recipe again, or leave it out."
        )

    @classmethod
    def no_column(cls, name: str, known: Iterable[str]) -> CompareError:
        return cls(f"--sort: there is no column '{name}'.{did_you_mean(name, known)}")

    @classmethod
    def no_runs(cls, path: Path) -> CompareError:
        return cls(f"'{path}' holds no finished run yet.")


class GridError(HgspError):
    """A sweep file, or its output, that cannot be used."""

    @classmethod
    def not_a_mapping(cls, source: str) -> GridError:
        return cls(
            f"{source}: a sweep is a mapping with the keys 'base', 'grid' or 'variants', and 'output' (docs/compare-and-sweep.md)."
        )

    @classmethod
    def nothing_varies(cls, source: str) -> GridError:
        return cls(
            f"{source}: nothing varies. Give 'grid' (recipe key -> values) or 'variants' (axis -> named settings)."
        )

    @classmethod
    def unknown_key(cls, source: str, place: str, key: str, known: Iterable[str]) -> GridError:
        return cls(f"{source}: {place}: '{key}' is no key of a recipe.{did_you_mean(key.split('.')[0], known)}")

    @classmethod
    def not_for_grids(cls, source: str, place: str, key: str) -> GridError:
        return cls(
            f"{source}: {place}: '{key}' cannot vary: the sweep gives every run a directory of its own. Leave it out."
        )

    @classmethod
    def set_twice(cls, source: str, key: str, first: str, second: str) -> GridError:
        return cls(
            f"{source}: '{key}' is set by {first} and by {second}, and one would hide the other. Leave one of them out."
        )

    @classmethod
    def named_twice(cls, source: str, axis: str, name: str) -> GridError:
        return cls(f"{source}: variants.{axis}: two are called '{name}'. Rename one of them.")

    @classmethod
    def same_runs(cls, source: str, first: str, second: str) -> GridError:
        return cls(
            f"{source}: the runs '{first}' and '{second}' have the same recipe. Leave a repeated value or variant out."
        )

    @classmethod
    def no_sweep(cls, path: Path) -> GridError:
        return cls(f"output: '{path}' exists and holds no sweep. Choose another with --output DIR, or move it away.")

    @classmethod
    def other_run(cls, path: Path, name: str) -> GridError:
        return cls(
            f"output: '{path}' holds another sweep: its run '{name}' is none of this one. Choose another with --output DIR."
        )

    @classmethod
    def other_recipe(cls, path: Path, name: str, changes: Sequence[str]) -> GridError:
        return cls(
            f"output: '{path}' holds another sweep: its run '{name}' was made with {', '.join(changes[:3])}. "
            "Choose another with --output DIR."
        )

    @classmethod
    def died(cls, code: int) -> GridError:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        memory = " (signal 9 is often the system's answer to memory that ran out)" if code == -9 else ""
        return cls(f"The process of the run {how}{memory}.")

    @classmethod
    def no_ray(cls) -> GridError:
        return cls("--ray needs ray, which is not installed: pip install 'hgsp-core[ray]'")

    @classmethod
    def no_cluster(cls, address: str, error: Exception) -> GridError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return cls(
            f"--ray {address}: no Ray cluster can be reached there: {reason} Start one (ray start --head), or use --jobs."
        )

    @classmethod
    def not_shared(cls, path: Path) -> GridError:
        return cls(
            f"A run ended on the cluster, but '{path}' is not here. 'output' and the store must be on storage that all nodes share."
        )


class HubError(HgspError):
    """A checkpoint that could not be sent to the hub. The one on this disk is whole."""

    @classmethod
    def offline(cls, repo: str) -> HubError:
        return cls(
            f"push_to_hub: '{repo}' cannot be reached, as HF_HUB_OFFLINE is set. Unset it, or leave out push_to_hub."
        )

    @classmethod
    def no_token(cls, repo: str) -> HubError:
        return cls(
            f"push_to_hub: there is no token to write '{repo}' with. Log in (hf auth login), set HF_TOKEN, or leave out push_to_hub."
        )

    @classmethod
    def not_empty(cls, repo: str, there: Sequence[str], directory: Path) -> HubError:
        more = f" and {len(there) - 3} more" if len(there) > 3 else ""
        return cls(
            f"push_to_hub: '{repo}' holds files already ({', '.join(there[:3])}{more}), and nothing there is overwritten. "
            f"{cls._kept(directory)}"
        )

    @classmethod
    def refused(cls, repo: str, status: int | None, reason: str, directory: Path) -> HubError:
        why = {401: "the token is not valid", 403: "the token may not write there"}.get(
            status, reason.strip().partition("\n")[0]
        )
        return cls(f"push_to_hub: the hub refused '{repo}' ({status}: {why}). {cls._kept(directory)}")

    @classmethod
    def failed(cls, repo: str, error: Exception, directory: Path) -> HubError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return cls(f"push_to_hub: '{repo}' could not be written: {reason.rstrip('.')}. {cls._kept(directory)}")

    @staticmethod
    def _kept(directory: Path) -> str:
        return f"The result is kept in '{directory}'; send it by hand with: hf upload ORG/NAME {directory}"


class DiagnosisError(HgspError):
    """A run whose diagnosis cannot be shown."""

    @classmethod
    def no_directory(cls, path: Path, near: Iterable[str]) -> DiagnosisError:
        close = get_close_matches(path.name, list(near), n=1)
        return cls(f"There is no run directory '{path}'.{f' Did you mean {close[0]!r}?' if close else ''}")

    @classmethod
    def no_diagnosis(cls, path: Path) -> DiagnosisError:
        return cls(
            f"'{path.parent}' has no {path.name}: it is no finished run, or one of an older version. "
            "Give a directory that `hgsp run` wrote, or run its recipe again."
        )

    @classmethod
    def unreadable(cls, path: Path, error: Exception) -> DiagnosisError:
        return cls(f"'{path}' cannot be read as a diagnosis: {error}. Run its recipe again.")
