"""What a plugin hands over: named methods with typed parameters, and the base of the classes behind them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from hgsp_core.model.architecture import API

#: kind -> the hook that provides it; the one list of kinds in the product.
HOOKS = {
    "architecture": "hgsp_architectures",
    "scorer": "hgsp_scorers",
    "prior": "hgsp_priors",
    "normalizer": "hgsp_normalizers",
    "allocator": "hgsp_allocators",
    "reconstructor": "hgsp_reconstructors",
    "recoverer": "hgsp_recoverers",
    "evaluator": "hgsp_evaluators",
    "exporter": "hgsp_exporters",
    "dataset": "hgsp_datasets",
}


class Params(BaseModel):
    """Base of a method's parameters: frozen, typed, and unknown keys are errors.

    Give every field a default, a range and a description with its unit; `hgsp plugins show` prints them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


@dataclass(frozen=True)
class Method:
    """A named method of one kind.

    `target` is `"module:Class"`. It is imported only when a recipe uses the method, so the class may import torch.
    The pipeline calls `Class(params)(job)`; which job and which result belongs to which kind stands in the kind's `contract.py`.
    """

    name: str
    target: str
    params: type[Params] = Params
    summary: str = ""
    api: int = API


P = TypeVar("P", bound=Params)


class Implementation(ABC, Generic[P]):
    """Base of the contracts, one a kind (`Scorer`, `Allocator`, …), which a plugin's classes subclass.

    A class is made with its parameters and called with one job. The optional members of a kind stand in its contract with
    their defaults; a class sets or overrides the ones it needs, and nothing else of the contract.
    """

    kind: ClassVar[str]

    def __init__(self, params: P) -> None:
        """Keep the parameters. A class that needs more made ready overrides this."""
        self.params = params

    @abstractmethod
    def __call__(self, job: Any) -> Any:
        """The result of the kind for one job of the kind."""
