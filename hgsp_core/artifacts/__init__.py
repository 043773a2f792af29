"""The typed results of the stages: what one stage makes and the next one reads.

All are frozen and made of numpy arrays and plain data; each can be saved, loaded and hashed (see `runtime/store.py`).
"""

from hgsp_core.artifacts.calibration import Calibration, LayerStatistics, Statistics
from hgsp_core.artifacts.plan import BlockPlan, Plan
from hgsp_core.artifacts.scores import Priors, Scores

__all__ = ["BlockPlan", "Calibration", "LayerStatistics", "Plan", "Priors", "Scores", "Statistics"]
