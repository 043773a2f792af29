"""YAML -> Recipe: every key known, every value in range, every method found, before any work starts.

A recipe is data: it is read as plain YAML (`files/yaml_data.py`) and names methods; it never carries code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, ErrorDetails

from hgsp_core.errors import PathError, RecipeError, did_you_mean, holds_credentials, shown
from hgsp_core.files import text as files
from hgsp_core.files.paths import expanded
from hgsp_core.files.yaml_data import YamlError, parse_yaml
from hgsp_core.plugin import registry
from hgsp_core.plugin.deprecations import current_keys
from hgsp_core.plugin.errors import PluginError
from hgsp_core.plugin.method import Implementation
from hgsp_core.runtime.monitor import log

C = TypeVar("C", bound=Implementation[Any])

#: bytes of a recipe or a sweep
_LARGEST = 2**20


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, ser_json_inf_nan="constants")

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any) -> Any:
        """No key of a recipe is a switch; YAML reads yes, no, on and off as booleans, which would pass as 1 and 0."""
        if isinstance(value, bool):
            raise ValueError("true and false are not accepted here")
        return value


class ModelPart(_Part):
    """The model to prune."""

    path: str = Field(min_length=1, description="hub id, or directory with config.json and safetensors")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="dtype to compute and save in; auto = as stored"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    weights: Literal["auto", "resident", "streamed"] = Field(
        "auto",
        description="resident = loaded in full; streamed = read one layer at a time; auto = resident if it fits in memory",
    )


class Use(_Part):
    """A method by name, with its own parameters."""

    use: str = Field(min_length=1, description="name of the method, or distribution/name")
    with_: dict[str, Any] = Field({}, alias="with", description="its parameters (hgsp plugins show NAME)")

    def build(self, contract: type[C]) -> C:
        """The method, ready to be called. Raises PluginError."""
        return registry.build(contract, self.use, self.with_)


class DatasetUse(Use):
    """A dataset by name, with its parameters; a bare name stands for one without any."""

    use: str = Field(min_length=1, description="dataset name, local .txt/.json/.jsonl/.parquet file, or hub id")

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_enough(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "minLength": 1}, handler(schema)]}


class TextShare(DatasetUse):
    """One of several texts of a calibration set."""

    share: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="its windows, relative to those of the other texts"
    )


#: how pydantic tells the two forms of `calibrate.dataset` apart; `explain` leaves them out of the place of a fault
_NAME, _LIST = "<name>", "<list>"


class CalibratePart(_Part):
    """The calibration set, shared by all methods of the run."""

    dataset: Annotated[
        Annotated[str, Field(min_length=1), Tag(_NAME)] | Annotated[tuple[TextShare, ...], Tag(_LIST)],
        Discriminator(lambda value: _LIST if isinstance(value, (list, tuple)) else _NAME),
    ] = Field(
        (TextShare(use="wikitext2"), TextShare(use="c4")),
        description="dataset name, local .txt/.json/.jsonl/.parquet file, or hub id; or a list of these, or of mappings {use, with, share}",
    )
    with_: dict[str, Any] = Field({}, alias="with", description="parameters of the dataset (hgsp plugins show NAME)")
    samples: int = Field(128, ge=1, validate_default=True, description="windows drawn, from all texts together")
    seq_len: int = Field(128, ge=2, description="tokens per window")
    stride: int = Field(0, ge=0, description="tokens between the starts of consecutive windows; 0 = no overlap")
    batch_size: int = Field(4, ge=1, description="windows per batch; affects cost, never the result")
    seed: int = Field(0, ge=0, lt=2**32, description="seed that draws the windows")

    @field_validator("dataset", mode="before")
    @classmethod
    def _several_texts_are_a_list(cls, dataset: Any) -> Any:
        if isinstance(dataset, dict):
            raise ValueError("a text with parameters belongs in a list: [{use: ..., with: ...}]")
        if isinstance(dataset, (list, tuple)) and not dataset:
            raise ValueError("the list names no text")
        return dataset

    @field_validator("with_")
    @classmethod
    def _each_text_has_its_own_parameters(cls, with_: dict[str, Any], others: ValidationInfo) -> dict[str, Any]:
        if with_ and isinstance(others.data.get("dataset"), tuple):
            raise ValueError("calibrate.dataset is a list, so write 'with' into its entries: [{use: ..., with: ...}]")
        return with_

    @field_validator("samples")
    @classmethod
    def _each_text_gets_a_window(cls, samples: int, others: ValidationInfo) -> int:
        if isinstance(texts := others.data.get("dataset"), tuple):
            given = _divided(samples, texts)
            if 0 in given:
                use = texts[given.index(0)].use
                raise ValueError(f"too few for a window of '{use}' at its share; raise it, or remove that text")
        return samples

    @property
    def texts(self) -> dict[str, TextShare]:
        """Recipe key -> text that stands there. A name alone is the same as a list of one."""
        if isinstance(self.dataset, str):
            return {"calibrate.dataset": TextShare.model_validate({"use": self.dataset, "with": self.with_})}
        return {f"calibrate.dataset.{i}": text for i, text in enumerate(self.dataset)}

    @property
    def windows(self) -> list[int]:
        """How many of the samples are of each text."""
        return _divided(self.samples, tuple(self.texts.values()))


def _divided(samples: int, texts: Sequence[TextShare]) -> list[int]:
    """The samples by share, rounded by the largest remainder; the first of equal remainders comes first."""
    shares = [Fraction(text.share) for text in texts]
    exact = [samples * share / sum(shares) for share in shares]
    found = [int(quota) for quota in exact]
    for i in sorted(range(len(exact)), key=lambda i: found[i] - exact[i])[: samples - sum(found)]:
        found[i] += 1
    return found


_BALANCED = {
    "score": {"use": "curvature"},
    "allocate": {"use": "global"},
    "reconstruct": {"use": "least-squares"},
}
#: quality -> the stages that a recipe leaves out; what each costs and brings stands in docs/benchmarks.md
QUALITY: Mapping[str, Mapping[str, Any]] = {
    "fast": _BALANCED
    | {
        "iterative_steps": 1,
        "reconstruct": {"use": "least-squares", "with": {"target": "own", "readers": False}},
    },
    "balanced": _BALANCED,
    "best": _BALANCED | {"recover": {"use": "gains"}},
}


class Recipe(_Part):
    """A pruning run. Omitted stages take the defaults shown by `hgsp recipe schema`."""

    version: Literal[1] = Field(1, description="version of the recipe format")
    quality: Literal["fast", "balanced", "best"] = Field(
        "balanced",
        description="preset for omitted keys: balanced; fast = measured once, only output projections refitted; "
        "best = also trains gains (recover: {use: gains})",
    )
    model: ModelPart = Field(description="the model to prune")
    calibrate: CalibratePart = Field(CalibratePart(), description="calibration set, shared by everything that measures")
    score: Use = Field(Use(**_BALANCED["score"]), description="importance of units")
    prior: Use = Field(Use(use="similarity"), description="importance of layers and blocks")
    normalize: tuple[Use, ...] = Field((), description="rescaling of scores across layers, applied in order")
    allocate: Use = Field(Use(**_BALANCED["allocate"]), description="selection of the units to keep")
    iterative_steps: Literal["auto"] | Annotated[int, Field(ge=1, le=100)] = Field(
        "auto",
        description="rounds of scoring and removing until the ratio is reached; auto = 1, but with scores in nats (curvature) one "
        "for each quarter of the model",
    )
    reconstruct: Use = Field(
        Use(**_BALANCED["reconstruct"]), description="repair of the kept weights, without training"
    )
    recover: Use | None = Field(None, description="training after pruning")
    evaluate: tuple[Use, ...] = Field((), description="measurements before and after pruning")
    export: tuple[Use, ...] = Field((Use(use="huggingface"),), description="output formats")
    memory: Literal["auto", "graphs", "device", "cpu", "disk"] = Field(
        "auto",
        description="activations kept between forward and backward: graphs = all; device, cpu, disk = only checkpointed "
        "activations, stored there; auto = the fastest that fits",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    output: str = Field(min_length=1, description="run directory; must not exist")

    @field_validator("output")
    @classmethod
    def _no_tilde(cls, output: str) -> str:
        try:
            path = str(expanded(output))
            return path if output.startswith("~") else output
        except PathError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="before")
    @classmethod
    def _default_methods(cls, data: Any) -> Any:
        """Stages that are left out are those of `quality`; `allocate: {with: {ratio: 0.3}}` is its method with that parameter."""
        if not isinstance(data, dict):
            return data
        quality = data.get("quality", "balanced")
        defaults: dict[str, Any] = {
            "prior": {"use": "similarity"},
            **(QUALITY.get(quality, {}) if isinstance(quality, str) else {}),
        }
        filled = {}
        for key, default in defaults.items():
            if not isinstance(default, dict):
                filled[key] = data.get(key, default)
                continue
            given = data.get(key, {})
            if isinstance(given, dict) and "use" not in given:
                with_ = given.get("with", {})
                filled[key] = {**default, **given}
                if isinstance(with_, dict):
                    filled[key]["with"] = {**default.get("with", {}), **with_}
        return {**data, **filled}

    def to_yaml(self) -> str:
        """The recipe with every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


#: how pydantic calls one of several types that a value may have, as the last part of a fault's place
_ALTERNATIVE = re.compile(r"literal\[.*\]|constrained-\w+|int|float|str|bool")
#: faults of one file that are told
MOST_FAULTS = 20
#: recipe key -> kind of method that stands there
STAGES = {
    "score": "scorer",
    "prior": "prior",
    "normalize": "normalizer",
    "allocate": "allocator",
    "reconstruct": "reconstructor",
    "recover": "recoverer",
    "evaluate": "evaluator",
    "export": "exporter",
}


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override (`a.b=c`), check. Every fault is a RecipeError or PluginError that names the file and the key."""
    return parse_recipe(read_text(expanded(path), "recipe"), str(path), overrides)


def read_text(path: Path, what: str) -> str:
    """The text of a file that is a `what`. Raises RecipeError, with the nearest name where it is not there."""
    try:
        return files.read_text(path, _LARGEST)
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise RecipeError(f"{path}: no such {what}.{did_you_mean(path.name, near)}") from None
    except ValueError as error:
        raise RecipeError(f"{path}: cannot be read as a {what}: {error}.") from None


def parse_recipe(text: str, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `text`; `source` is what messages call it."""
    data = recipe_keys(text, source)
    for override in overrides:
        _override(data, override)
    return recipe_of(data, source)


def recipe_keys(text: str, source: str) -> dict[str, Any]:
    """The recipe's keys in `text`, not checked. Raises RecipeError where it is no mapping."""
    if (data := parse_mapping(text, source)) is None:
        fault = "a recipe is a mapping of keys such as 'model:' and 'allocate:'."
        raise RecipeError.at(source, "the file", fault, "Write one with: hgsp recipe init")
    return data


def parse_mapping(text: str, source: str) -> dict[str, Any] | None:
    """The YAML mapping in `text`, or None where it is something else. Raises RecipeError with the place of a fault."""
    try:
        data = parse_yaml(text)
    except YamlError as error:
        raise RecipeError.at(source, error.place or "the file", f"not valid YAML: {error}.") from None
    return data if isinstance(data, dict) else None


def recipe_of(data: Mapping[str, Any], source: str) -> Recipe:
    """The checked recipe of a mapping of its keys; keys under an old name are read, with a warning."""
    data = current_keys(data, source, log.warning)
    _refuse_credentials(data, source)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(explain(error, source, Recipe)) from None
    check_methods(recipe, source)
    return recipe


def _refuse_credentials(data: Mapping[str, Any], source: str) -> None:
    """Raises RecipeError where a text would log somebody in: the recipe is written into the run's files."""
    waiting: list[tuple[str, object]] = [("", data)]
    seen: set[int] = set()  # a part that YAML's aliases repeat, or that holds itself, is looked at once
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str) and holds_credentials(value):
            fault = "it contains a password or a token, which the run would write to its files."
            raise RecipeError.at(source, place, fault, "Remove it, and set HF_TOKEN or log in with `hf auth login`.")
        if isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting += [(f"{place}.{key}" if place else str(key), item) for key, item in items]


def uses(recipe: Recipe) -> Iterator[tuple[str, str, Use]]:
    """(place, kind, use) of every method that the recipe names, datasets apart."""
    for key, kind in STAGES.items():
        value = getattr(recipe, key)
        if isinstance(value, tuple):
            yield from ((f"{key}.{i}", kind, use) for i, use in enumerate(value))
        elif value is not None:
            yield key, kind, value


def check_methods(recipe: Recipe, source: str) -> None:
    """Every method exists and takes its parameters, and so does the dataset; nothing is imported for it."""
    seen: list[tuple[str, dict[str, Any]]] = []
    for place, text in recipe.calibrate.texts.items():
        with suppress(PluginError):  # a file or hub id, which is looked for where it is opened
            dataset = registry.installed().find("dataset", text.use).declared.params
            alone = isinstance(recipe.calibrate.dataset, str)
            _check_params(dataset, text.with_, source, "calibrate.with." if alone else f"{place}.with.")
        same = text.use, data_params(text.use, text.with_)
        if same in seen:
            fault = f"'{text.use}' is in the list already, with the same parameters."
            raise RecipeError.at(source, place, fault, "Remove one of the two.")
        seen.append(same)
    for place, kind, use in uses(recipe):
        try:
            entry = registry.installed().find(kind, use.use)
        except PluginError as error:
            raise PluginError(f"{source}: {place}.use: {error}") from None
        _check_params(entry.declared.params, use.with_, source, f"{place}.with.")


def _check_params(params: type[BaseModel], given: Mapping[str, Any], source: str, place: str) -> None:
    try:
        params(**given)
    except ValidationError as error:
        raise RecipeError(explain(error, source, params, place)) from None


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with every default of its methods written out too: what exactly was run."""
    changed = {}
    for key, kind in STAGES.items():
        value = getattr(recipe, key)
        if value is not None:
            several = isinstance(value, tuple)
            changed[key] = tuple(resolved_use(kind, u) for u in value) if several else resolved_use(kind, value)
    part = recipe.calibrate
    texts = [t.model_copy(update={"with_": data_params(t.use, t.with_)}) for t in part.texts.values()]
    written = {"with_": texts[0].with_} if isinstance(part.dataset, str) else {"dataset": tuple(texts)}
    return recipe.model_copy(update={**changed, "calibrate": part.model_copy(update=written)})


def resolved_use(kind: str, use: Use) -> Use:
    """One method with every default of its parameters."""
    params = registry.installed().find(kind, use.use).declared.params(**use.with_)
    return Use.model_validate({"use": use.use, "with": params.model_dump(mode="json")})


def data_params(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A registered dataset's parameters with their defaults; of a file or hub id, those that were given."""
    try:
        return registry.installed().find("dataset", name).declared.params(**given).model_dump(mode="json")
    except PluginError:
        return dict(given)


def _override(data: dict[str, Any], text: str) -> None:
    """Apply one `--set a.b.0.c=value`; the value is read as YAML."""
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {_short(text)}: write it as key.key=value, for example --set allocate.with.ratio=0.3")
    try:
        parsed = parse_yaml(value)
    except YamlError as error:
        raise RecipeError(f"--set {_short(text)}: {shown(value)} is not a valid YAML value: {error}.") from None
    assign(data, keys, parsed, f"--set {_short(text)}")


def _short(text: str) -> str:
    return text if len(text) < 100 else f"{text[:99]}…"


def assign(data: dict[str, Any], keys: Sequence[str], value: Any, place: str) -> None:
    """Set `data[keys[0]][keys[1]]...`; parts that are missing on the way are made, items of lists must be there.

    Raises RecipeError, which begins with `place`, where the way leads through a single value or past the end of a list.
    """
    node: Any = data
    for i, key in enumerate(keys):
        entry = _entry_of(node, key, f"{place}: '{'.'.join(keys[:i])}'")
        if i == len(keys) - 1:
            node[entry] = value
        elif isinstance(node, dict) and node.get(entry) is None:
            node[entry] = node = {}
        else:
            node = node[entry]


def _entry_of(node: object, key: str, place: str) -> int | str:
    """The index of a list or the key of a mapping that `key` means. Raises RecipeError, which begins with `place`."""
    if isinstance(node, list):
        if not key.isdigit() or int(key) >= len(node):
            raise RecipeError(f"{place} is a list of {len(node)} items; '{key}' is not an index into it.")
        return int(key)
    if not isinstance(node, dict):
        raise RecipeError(f"{place} is a single value and has no key '{key}'.")
    return key


def explain(error: ValidationError, source: str, model: type[BaseModel], prefix: str = "") -> str:
    """One line for each of the first faults: file, key, what is wrong, the nearest known key or the value given."""
    lines = []
    faults = list(_alternatives_joined(error.errors()))
    for fault in faults[:MOST_FAULTS]:
        keys = [key for key in fault["loc"] if key not in (_NAME, _LIST)]
        place = prefix + ".".join(_short(str(key)) for key in keys)
        if fault["type"] == "extra_forbidden":
            hint = did_you_mean(str(keys[-1]), _keys_at(model, keys[:-1]))
            lines.append(f"{source}: {place}: unknown key.{hint}")
        elif fault["type"] == "missing":
            lines.append(f"{source}: {place}: this key is required.")
        else:
            lines.append(f"{source}: {place}: {fault['msg']} (given: {shown(fault['input'])}).")
    if len(faults) > MOST_FAULTS:
        lines.append(f"{source}: and {len(faults) - MOST_FAULTS:,} more.")
    return "\n".join(lines)


def _alternatives_joined(faults: Sequence[ErrorDetails]) -> Iterator[ErrorDetails]:
    """One fault for a value that may be of several types (`auto`, or a number): pydantic gives one for each of them."""
    alternatives = [bool(_ALTERNATIVE.fullmatch(str(fault["loc"][-1]))) if fault["loc"] else False for fault in faults]
    places = [
        fault["loc"][:-1] if alternative else None for fault, alternative in zip(faults, alternatives, strict=True)
    ]
    for i, fault in enumerate(faults):
        if (place := places[i]) is None:
            yield fault
        elif place not in places[:i]:
            said = [
                other["msg"].removeprefix("Input should be ")
                for other, at in zip(faults, places, strict=True)
                if at == place
            ]
            yield {**fault, "loc": place, "msg": f"Input should be {', or '.join(said)}"}


def _keys_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Known keys of the part of `model` that `location` points into."""
    for key in location:
        if isinstance(key, int):
            continue
        field = next((f for n, f in model.model_fields.items() if key in (n, f.alias)), None)
        inner = next(_models_in(field.annotation), None) if field else None
        if inner is None:
            return []
        model = inner
    return [f.alias or n for n, f in model.model_fields.items()]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not get_origin(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def describe(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(key, description, default) of every key, nested ones with dots: what `hgsp recipe schema` and the docs list."""
    for name, f in model.model_fields.items():
        key = prefix + (f.alias or name)
        default = None if f.is_required() else f.get_default(call_default_factory=True)
        yield key, f.description or "", "required" if f.is_required() else _plain(default)
        for part in _models_in(f.annotation):
            yield from describe(part, f"{key}.") if not issubclass(part, Use) else ()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return dict(value) if isinstance(value, Mapping) else value
