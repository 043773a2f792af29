"""Plans judged once: what a search has found out about a plan is kept in the store, so a search goes on where it was."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from hgsp_core.artifacts import Calibration, Plan
from hgsp_core.measure import open_weights
from hgsp_core.monitor import Monitor
from hgsp_core.recipe import Recipe
from hgsp_core.source import Source
from hgsp_core.store import Store


class StoredJudge:
    """A `Judge` that is loaded when the first plan comes that the store does not know."""

    def __init__(self, recipe: Recipe, source: Source, calibration: Calibration, samples: int, monitor: Monitor, store: Store):
        self._recipe, self._source, self._calibration, self._samples = recipe, source, calibration, samples
        self._monitor, self._store = monitor, store
        self._judge: Any = None
        self._base: Plan | None = None
        self._own: set[str] = set()
        self.saved = 0.0  # seconds that judgements of other runs took, which this one found
        self._inputs = {
            "model": source.fingerprint,
            "architecture": repr(source.layout.architecture),
            "dtype": source.dtype,
            "tokens": calibration.sha256,
            "samples": samples,
            "version": 1,
        }

    def __call__(self, plan: Plan) -> float:
        """KL(dense ‖ plan) in nats a token (`sweep/judge.py`)."""
        inputs = {**self._inputs, "plan": plan.sha256}
        if kept := self._store.get("judgement", inputs):
            if plan.sha256 not in self._own:
                self._own.add(plan.sha256)
                self.saved += self._store.seconds("judgement", inputs)
            return float(kept["kl"])
        start = time.perf_counter()
        judge = self._open()
        if self._base is not None:
            judge.rebase(self._base)
        found = judge(plan)
        self._store.put("judgement", inputs, {"kl": np.array(found)}, time.perf_counter() - start)
        self._own.add(plan.sha256)
        return found

    def rebase(self, plan: Plan) -> None:
        """See `Judge.rebase`; done when it is of use."""
        self._base = plan

    def _open(self) -> Any:
        if self._judge is None:
            from hgsp_core.sweep.judge import Judge

            source, recipe = self._source, self._recipe
            weights = open_weights(source.directory, source.layout, source.dtype, recipe, self._monitor)
            self._judge = Judge(weights, self._calibration.tokens, self._samples, recipe.calibrate.batch_size)
        return self._judge
