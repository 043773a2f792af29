"""Parameters of `llm_pruner`, apart from the method so that declaring it imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hgsp_core import Params


class LLMPrunerParams(Params):
    importance: Literal["first", "mixed", "vector"] = Field(
        "first",
        description="unit score: 'first' = sum of |W * g| (param_first, the authors' default), 'mixed' = sum of |W * g - W^2 * H / 2| "
        "(param_mix), 'vector' = sum over rows or columns of |sum of W * g| (vectorize)",
    )
