"""A method, and the parameters with which the conformance kit tries it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Any, TypeVar
from unittest import SkipTest

from pydantic import ValidationError

from hgsp_core import (
    Allocator,
    Dataset,
    Evaluator,
    Exporter,
    Method,
    Normalizer,
    Params,
    Prior,
    Reconstructor,
    Recoverer,
    Scorer,
)
from hgsp_core.plugin.method import Implementation
from hgsp_core.testing.jobs import JOBS

C = TypeVar("C", bound=Implementation[Any])

#: kind -> the contract that its classes subclass
CONTRACTS: Mapping[str, type[Implementation[Any]]] = {
    contract.kind: contract
    for contract in (Scorer, Prior, Normalizer, Allocator, Reconstructor, Recoverer, Evaluator, Exporter, Dataset)
}


@dataclass(frozen=True)
class Trial:
    """A method, and the parameters with which it is tried."""

    method: Method
    kind: str
    given: Mapping[str, Any]

    @cached_property
    def params(self) -> Params:
        try:
            return self.method.params(**self.given)
        except ValidationError as error:
            missing = [".".join(map(str, fault["loc"])) for fault in error.errors() if fault["type"] == "missing"]
            if missing:
                raise SkipTest(f"needs a value for: {', '.join(missing)} (`params` of method_checks)") from error
            raise

    def having(self, **params: Any) -> Trial:
        return replace(self, given={**self.given, **params})

    @property
    def implementation(self) -> type[Implementation[Any]]:
        module, _, attribute = self.method.target.partition(":")
        return getattr(import_module(module), attribute)

    def build(self) -> Implementation[Any]:
        return self.implementation(self.params)

    def build_as(self, contract: type[C]) -> C:
        built = self.build()
        assert isinstance(built, contract)  # `target_imports` made sure
        return built

    def run(self, job: Any = None) -> Any:
        """The result of a new instance for a job; without one, for a fresh job of the kind."""
        built = self.build()
        result = built(JOBS[self.kind](built) if job is None else job)
        return list(result) if inspect.isgenerator(result) else result
