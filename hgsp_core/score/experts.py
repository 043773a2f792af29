"""Scorers of experts. They say nothing of other units, which stay whole."""

from hgsp_core.engine.experts import ExpertOutput, ExpertTokens
from hgsp_core.plugin.method import Params
from hgsp_core.score.scorers import OneStatistic


class Reap(OneStatistic[Params]):
    """Measures how much an expert adds at the tokens that go to it. Only experts are removed.

    Formula: mean of `w·‖E(x)‖₂` over the tokens x that go to expert E, where w is the weight that the router gives it.
    Source: REAP (Lasby et al. 2025, arXiv 2510.13999).
    Cost: one forward; experts run twice.
    When: with `uniform`, as many experts are removed from each layer; there is no memory for gradients.
    Notes: Rare experts with strong outputs are kept. `curvature` weighs them by the share of tokens, and prices attention and
        MLPs in the same unit.
    """

    collectors = (ExpertOutput(),)
    only_experts = True


class Frequency(OneStatistic[Params]):
    """Counts the tokens that go to an expert. Only experts are removed.

    Formula: share of the tokens that the router sends to the expert.
    Source: a baseline of the papers on expert pruning, such as Lu et al. 2024 (arXiv 2402.14800).
    Cost: one forward.
    When: comparisons.
    """

    collectors = (ExpertTokens(),)
    only_experts = True
