"""Plans judged once: what a search has found out about a plan is kept in the store, so a search goes on where it was."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hgsp_core.artifacts import Calibration, Plan
from hgsp_core.engine.launched import launched
from hgsp_core.repair.contract import Reconstructor
from hgsp_core.runtime.measure import open_weights
from hgsp_core.runtime.monitor import Monitor
from hgsp_core.runtime.recipe import Recipe
from hgsp_core.runtime.source import Source
from hgsp_core.runtime.store import Store, key_of

if TYPE_CHECKING:
    from hgsp_core.allocate.judge import Judge


class StoredJudge:
    """A `Judge` that is loaded when the first plan comes that the store does not know."""

    def __init__(
        self, recipe: Recipe, source: Source, calibration: Calibration, samples: int, monitor: Monitor, store: Store
    ):
        self._recipe, self._source, self._calibration, self._samples = recipe, source, calibration, samples
        self._monitor, self._store = monitor, store
        self._judge: Judge | None = None
        self._known: dict[str, np.ndarray] = {}  # key -> what this run found, or found in the store
        self.saved = 0.0  # seconds that judgements of other runs took, which this one found
        self._inputs = {
            "model": source.fingerprint,
            "architecture": repr(source.layout.architecture),
            "dtype": source.dtype,
            "tokens": calibration.sha256,
            "samples": samples,
            "version": 4,
        }

    def __call__(self, plan: Plan) -> float:
        """KL(dense ‖ plan) in nats a token (`judge.py`)."""
        return float(self._once({**self._inputs, "plan": plan.sha256}, lambda judge: judge(plan)))

    def repaired(self, plan: Plan, half: int) -> np.ndarray:
        """[windows]: the same for the plan as the recipe's `reconstruct` leaves it, fitted to the other half of the windows."""
        use = self._recipe.reconstruct

        def judged(judge: Judge) -> np.ndarray:
            from hgsp_core.checkpoint.on_disk import OnDisk

            with tempfile.TemporaryDirectory() as folder:
                return judge.repaired(plan, half, use.build(Reconstructor), OnDisk(Path(folder) / "repaired"))

        inputs = {"plan": plan.sha256, "half": half, "reconstruct": use.model_dump(mode="json")}
        return self._once({**self._inputs, **inputs}, judged)

    def _once(self, inputs: dict[str, Any], judged: Callable[[Judge], float | np.ndarray]) -> np.ndarray:
        """What was found before, here or by another run, or else judged now."""
        key = key_of(inputs)
        if key not in self._known:
            if stored := self._stored(inputs):
                self._known[key], seconds = stored
                self.saved += seconds
            else:
                start = time.perf_counter()
                self._known[key] = np.array(judged(self._open()))
                self._store.put("judgement", inputs, {"kl": self._known[key]}, time.perf_counter() - start)
        return self._known[key]

    def _stored(self, inputs: dict[str, Any]) -> tuple[np.ndarray, float] | None:
        """From the store: the judgement and the seconds it took. Of several processes, all go by what the first one sees."""
        kept = self._store.get("judgement", inputs)
        found = (kept["kl"], self._store.seconds("judgement", inputs)) if kept else None
        if launched() == 1:
            return found
        from hgsp_core.engine.parallel import of_first

        return of_first(found)

    def release(self) -> None:
        """Let go of the memory that judging takes; another judgement takes it again."""
        self._judge = None

    def _open(self) -> Judge:
        if self._judge is None:
            from hgsp_core.allocate.judge import Judge

            source, recipe = self._source, self._recipe
            weights = open_weights(source.directory, source.layout, source.dtype, recipe, self._monitor)
            self._judge = Judge(weights, self._calibration.tokens, self._samples, recipe.calibrate.batch_size)
        return self._judge
