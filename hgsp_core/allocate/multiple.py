"""`channel_multiple: auto`: MLP sizes that suit matrix kernels, where they cost the plan almost nothing.

A GPU multiplies matrices in tiles: 1,003 channels take the time of 1,024, and sizes that are no multiple of 8 are slow.
Allocators get a number, which is chosen here before they are called.
"""

from __future__ import annotations

from dataclasses import replace

from hgsp_core.allocate.contract import AllocateJob, Allocator
from hgsp_core.allocate.limits import SizeLimits, mixes_tokens
from hgsp_core.artifacts import Plan, Scores
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.plugin import registry
from hgsp_core.plugin.method import Params

#: tried in this order; the last one is used whatever it costs
MULTIPLES = (128, 64, 32, 16, 8)
#: MLPs of fewer channels are small enough for any size
WIDE = 1024
#: tolerated cost of a multiple, as a share of the KL divergence or of the scores, and of the removed parameters
TOLERATED = 0.01


def sized(use: str, params: Params, job: AllocateJob, nats: Scores | None) -> tuple[Params, tuple[str, ...]]:
    """The parameters of the allocator `use` with a number in place of `auto`, and the note on it.

    A plan in multiples often removes slightly less, which is cheaper by itself. So it is compared with the plan of single
    channels that removes the same number of parameters.

    Args:
        nats: scores in nats, by which plans are compared; None = the allocator's own scores.
    """
    layout = job.layout
    widest = max((b.units for b in layout.blocks() if not (mixes_tokens(b) or b.routed)), default=0)
    if widest < WIDE or numbered(params, 1) == params:
        return params, ()
    ratio = dict(params).get("ratio")
    if ratio is None:
        least = MULTIPLES[-1]
        return numbered(params, least), (f"channel_multiple: auto is {least}: {use} has no ratio to compare plans by.",)
    lost_of = weighed(registry.build(Allocator, use, params).scores(job)) if nats is None else nats
    currency = "removed scores" if nats is None else "predicted KL divergence"

    def planned(multiple: int, share: float = 1.0) -> Plan:
        wanted = numbered(params, multiple).model_copy(update={"ratio": ratio * share})
        return registry.build(Allocator, use, wanted)(job)

    def price(multiple: int) -> tuple[bool, str]:
        """Whether the cost is tolerated, and the cost in words."""
        try:
            plan = planned(multiple)
            removed = plan.removed(layout)
            if removed < (1 - TOLERATED) * most:
                return False, f"{1 - removed / most:.1%} fewer parameters removed"
            same = planned(1, (removed + 0.5) / (single.before - single.target))
        except PlanError:
            return False, "not possible"
        lost, least = lost_of.removed(plan), lost_of.removed(same)
        return lost <= (1 + TOLERATED) * least, f"{lost / least - 1 if least > 0 else 0:+.2%}"

    single = planned(1)
    most = single.removed(layout)
    found: list[str] = []
    for multiple in MULTIPLES:
        cheap, text = price(multiple)
        found.append(f"{multiple}: {text}")
        if cheap:
            break
    note = f"channel_multiple: auto chose {multiple}. Change of {currency}: {', '.join(found)}."
    return numbered(params, multiple), (note,)


def weighed(scores: Scores) -> Scores:
    """The scores as the knapsack adds them up: score · cost, shifted up where some are below 0."""
    return replace(scores, importance=(scores.score - min(scores.score.min(), 0)) * scores.cost)


def numbered(params: Params, multiple: int) -> Params:
    """The parameters with this number in place of every `auto`."""
    changed: dict[str, object] = {
        name: numbered(value, multiple) for name, value in params if isinstance(value, Params)
    }
    if isinstance(params, SizeLimits) and params.channel_multiple == "auto":
        changed["channel_multiple"] = multiple
    return params.model_copy(update=changed)
