"""The form of JSON files, for the keys that are read: `read_object` names a key that differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: a number that can be computed with; infinities are written as text (report/json_files.py)
Finite = Annotated[float, Field(allow_inf_nan=False)]
Number = Finite | Literal["inf", "-inf", "nan"]


#: limit of counts for which transformers makes a list
_MANY = 100_000


class Form(BaseModel):
    """Other keys are allowed."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())


class ModelConfig(Form):
    """config.json. Which counts must be there is the architecture's data (`model/layout.py`)."""

    model_type: str | None = None
    base_model_type: str | None = None
    architectures: list[str] | None = None
    auto_map: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    per_layer_config: dict[str, dict[str, Any]] = {}
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_hidden_layers: int | None = Field(None, le=_MANY)
    num_labels: int | None = Field(None, le=_MANY)
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    vocab_size: int | None = None
    max_position_embeddings: Finite | None = None
    layer_types: list[str] | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_theta: Finite | None = None
    rms_norm_eps: Finite | None = None
    tie_word_embeddings: bool | None = None
    hidden_act: str | None = None
    dtype: str | dict[str, str] | None = None
    torch_dtype: str | dict[str, str] | None = None


class TokenizerConfig(Form):
    """tokenizer_config.json."""

    tokenizer_class: str | None = None
    auto_map: dict[str, Any] | list[Any] | None = None


class Index(Form):
    """model.safetensors.index.json."""

    weight_map: dict[str, str]


class _RecordedFile(Form):
    bytes: int
    sha256: str


class _RecordedLogits(Form):
    tokens: list[list[int]] = Field(min_length=1)
    columns: list[int] = Field(min_length=1)
    values: list[list[list[Finite]]]

    @model_validator(mode="after")
    def _one_value_a_token_and_column(self) -> _RecordedLogits:
        windows = {len(row) for row in self.tokens}
        there = [[len(values) for values in window] for window in self.values]
        if len(windows) != 1 or there != [[len(self.columns)] * windows.pop()] * len(self.tokens):
            raise ValueError("tokens, columns and values do not belong together")
        return self


class Record(Form):
    """hgsp.json."""

    version: Literal[1]
    family: str
    dtype: Literal["float32", "float16", "bfloat16"]
    files: dict[str, _RecordedFile]
    logits: _RecordedLogits


class Adapter(Form):
    """adapter_config.json."""

    peft_type: str
    r: int | None = None
    lora_alpha: Finite | None = None
    target_modules: str | list[str] | None = None


class PriorNumbers(Form):
    """layer_importance.json; null = not measured."""

    layer: list[Finite | None]
    blocks: dict[str, list[Finite | None]] = {}


class _Use(Form):
    use: str | None = None


class _AllocateWith(Form):
    ratio: Finite | None = None
    of: str | None = None


class _Allocate(_Use):
    with_: _AllocateWith = Field(_AllocateWith(), alias="with")


class _Model(Form):
    path: str
    dtype: str = "auto"


class _Text(Form):
    use: str
    with_: dict[str, Any] = Field({}, alias="with")


class _Calibrate(Form):
    dataset: str | list[_Text] | None = None
    with_: dict[str, Any] = Field({}, alias="with")


class _Recipe(Form):
    model: _Model | None = None
    calibrate: _Calibrate | None = None
    allocate: _Allocate | None = None
    score: _Use | None = None
    prior: _Use | None = None
    reconstruct: _Use | None = None
    recover: _Use | None = None


class _Calibration(Form):
    dataset: str
    windows: dict[str, int] = {}
    samples: int
    seq_len: int
    seed: int
    tokens_sha256: str


class _Metrics(Form):
    parameters: Finite | None = None
    layer_parameters: Finite | None = None
    macs: Finite | None = None
    bytes: Finite | None = None
    kv_cache_bytes_per_token: Finite | None = None
    perplexity: dict[str, Number | None] = {}
    decode_seconds_per_token: dict[str, Number | None] = {}

    @model_validator(mode="after")
    def _protocols_are_mappings(self) -> _Metrics:
        for key, value in (self.model_extra or {}).items():
            if key.endswith("_protocol") and not isinstance(value, Mapping):
                raise ValueError(f"'{key}' is no JSON object")
        return self


class Report(Form):
    """report.json. A run is only compared where all of it is there (`compare.load_run`)."""

    recipe: _Recipe | None = None
    calibration: _Calibration | None = None
    before: _Metrics | None = None
    after: _Metrics | None = None
    timings: dict[str, Finite] | None = None
    predicted_kl: Finite | None = None
    reused: list[str] = []
    reused_seconds: Finite = 0
    peak_memory_bytes: Finite | None = None
    recovery: dict[str, Any] | None = None
    notes: list[str] = []
    exports: list[str] = []


class _Fingerprint(Form):
    fingerprint: str


class _Parameters(Form):
    before: int
    target: int


class _Block(Form):
    of: int
    kept: list[int]
    heads: list[list[int]] = []


class PlanFile(Form):
    """plan.json."""

    model: _Fingerprint | None = None
    parameters: _Parameters | None = None
    layers: list[dict[str, int | _Block]] | None = None
    notes: list[str] = []


class _Then(Form):
    num_extreme_layers: int
    layers_2_to_4_lose_at_most: Finite


class _Repair(Form):
    set: list[str]
    recipe: str
    repairs: bool
    then: _Then


class _Finding(Form):
    severity: str
    title: str
    text: str
    repair: _Repair | None


class _Check(Form):
    check: str
    unit: str
    value: Number
    ok: bool


class Diagnosis(Form):
    """gradient_diagnosis.json."""

    findings: list[_Finding]
    checks: list[_Check]
    layers: list[dict[str, Any]]
