"""Search: rates moved between blocks under one budget, judged by what the model predicts on held-out windows.

Which units of a block go first is decided by their scores; how many is decided here:

1. Every block is cut by itself to a few sizes, and the KL divergence to the dense model is measured (`judge.py`).
   The slopes of the lower convex hull of these points give each of the block's units a price: KL over parameters.
2. The knapsack of H-GSP takes units in the order of these prices. Its plan and that of H-GSP's own scores are judged; the
   better one is the start.
3. `moves` times, the prices (or H-GSP's scores) of some blocks go up or down by a factor, and the knapsack finds another plan
   under the same budget and limits. It is judged after the repair that the recipe asks for, on each half of the windows that
   judge no blocks with the repair fitted to the other half, and replaces the best plan only if it does better on both, by more than a
   standard error over the windows. Step 1 assumes that blocks do not depend on each other, and its judge that the layers
   below a writer are whole; this is where neither has to hold.

On the windows that judge it, the result of step 2 is never worse than H-GSP's plan, and that of step 3, repaired, never worse
than that of step 2. After Týr-the-Pruner (Li et al. 2025, arXiv 2503.09657), which searches over sparsities of blocks with the
error of the whole model; prices are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np

from hgsp_core.allocate.budget import Queue, plan_within
from hgsp_core.allocate.contract import LEAST_HALF, AllocateJob, Allocator
from hgsp_core.allocate.hgsp import allocate, prepared
from hgsp_core.allocate.limits import in_force
from hgsp_core.allocate.search_params import SearchParams
from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.errors import PlanError
from hgsp_core.engine.curvature import hull
from hgsp_core.engine.errors import SweepError
from hgsp_core.model.layout import Layout

#: shares of a block's parameters that it is tried without
TRIED = (0.15, 0.3, 0.5, 0.75, 1.0)
#: what a move adds to the logarithm of a price
STEP = 0.5
#: half-waves over the depth that a move of many blocks has, fewer than
WAVES = 3
#: changes of prices looked at for each move: some give a plan that is known
LOOKS = 20
#: a plan is better by more than so many standard errors of the gain over the windows
MARGIN = 1
#: time that a move takes, in plans judged by masks: a guess, for the time left
WEIGHT = 20

#: KL on each window of either half of those that judge no blocks
Halves = tuple[np.ndarray, ...]


class Search(Allocator[SearchParams]):
    """Searches the rate of each block by the KL divergence to the dense model on held-out windows.

    Formula: price of a block = slope of the KL over removed parameters, from pruning this block alone to five sizes,
        with its writer refitted. The knapsack of `hgsp` removes units in ascending order of price.
    Source: after Týr-the-Pruner (Li et al. 2025, arXiv 2503.09657); prices and moves are this project's.
    Cost: about four forwards. With `moves`: two repairs on half of the tokens for the start, one for each move, and a
        second one for a move that helps on the first half. A Gram matrix of each writer's input in host memory, or on
        disk if there is no room (4·in² bytes each: 0.9 GB a layer at FFN 14336).
    When: the default (`quality: balanced`). `quality: best` adds 24 moves and tries blocks on twice as many windows.
    Notes: A move multiplies the prices of attention or of MLPs by factors up to √e, first in waves over the
        depth, then for one block at a time. The resulting plan is repaired and judged on each half of the windows
        that judge no blocks, with the repair fitted to the other half. It replaces the best plan if it is better on
        both halves by more than one standard error over the windows. A move that helped is repeated.

        On the windows that judge, the start is never worse than the plan of `hgsp`, and the result of the moves,
        repaired, is never worse than the start.

        `samples: auto` sets the number of judging windows so that trying blocks costs `forwards`, whatever the depth
        of the model.
    """

    def __init__(self, params: SearchParams):
        super().__init__(params)
        self.needs_priors = params.temperature != 0 or params.limits.freeze_most_important > 0

    def held_out(self, layout: Layout, samples: int) -> int:
        """Windows that judge. Each block is tried in len(TRIED) sizes, which on average run half of the layers.

        Raises:
            SweepError: too few windows are left for what else the search needs.
        """
        tries = len(layout.blocks()) * len(TRIED)
        found = max(2, min(samples // 4, round(2 * self.params.forwards * samples / tries)))
        if self.params.samples != "auto":
            found = self.params.samples
        if found >= samples:
            raise SweepError.nothing_to_judge(found, samples)
        if self.params.moves and samples - found < 2 * LEAST_HALF:
            raise SweepError.nothing_to_confirm(found, samples)
        return found

    def __call__(self, job: AllocateJob) -> Plan:
        p, layout, judge = self.params, job.layout, job.judge
        assert judge is not None  # `held_out` asked for it
        queue, layer_min = prepared(p, job)
        queue = queue.by(np.where(gone_before(queue, job), -np.inf, queue.score - min(queue.score.min(initial=0), 0)))
        sizes = [tried(queue, block) for block in range(len(queue.units))]
        total, done = sum(map(len, sizes)) + 2 + p.moves * WEIGHT, 0

        def worked(steps: int) -> None:
            nonlocal done
            done += steps
            job.progress(done, total)

        def judged(plan: Plan) -> float:
            kl = judge(plan)
            worked(1)
            return kl

        def judged_alone(block: int, n: int) -> float:
            gone = np.zeros_like(queue.units)
            gone[block] = n
            return judged(queue.plan(layout, gone, p.budget(layout), ()))

        def solved(order: Queue) -> Plan:
            return plan_within(layout, order, p, lambda budget: allocate(order, p, budget, layer_min), in_force(p))

        plan = solved(queue)
        found = [(judged(plan), plan, queue)]
        note = f"search: KL to the dense model {found[0][0]:.4f} (H-GSP)"
        prices = np.where(np.isneginf(queue.score), -np.inf, priced(queue, sizes, judged_alone))
        try:
            plan = solved(queue.by(prices))
        except PlanError:
            note += "; in the order of prices, limits leave too little to remove"
        else:
            found.append((judged(plan), plan, queue.by(prices)))
            note += f", {found[1][0]:.4f} (prices of blocks)"
        _, best, order = min(found, key=lambda one: one[0])
        if p.moves:
            best, before, after = moved(best, order, solved, judge.repaired, p, lambda: worked(WEIGHT))
            note += f"; repaired {before:.4f} before moves, {after:.4f} after"
        job.progress(total, total)
        return replace(best, notes=(*best.notes, f"{note}."))


def moved(
    best: Plan,
    order: Queue,
    solved: Callable[[Queue], Plan],
    repaired: Callable[[Plan, int], np.ndarray],
    params: SearchParams,
    worked: Callable[[], None],
) -> tuple[Plan, float, float]:
    """The plan that moves lead to, and the mean KL before and after them. order: whose plan `best` is."""
    first = least = tuple(repaired(best, half) for half in (0, 1))
    offsets = np.zeros(len(order.units))  # of the log prices of the best plan
    known = {best.sha256}
    left = params.moves

    def new(tried: np.ndarray) -> Plan | None:
        try:
            plan = solved(order.by(order.score * np.exp(tried)[order.block]))
        except PlanError:  # in that order the limits leave too little
            return None
        if plan.sha256 in known:
            return None
        known.add(plan.sha256)
        return plan

    for direction in islice(directions(order, params.seed), LOOKS * params.moves):
        while left and (plan := new(offsets + STEP * direction)) is not None:
            left -= 1
            kl = better(plan, least, repaired)
            worked()
            if kl is None:
                break
            best, least, offsets = plan, kl, offsets + STEP * direction  # and once more
    return best, mean(first), mean(least)


def better(plan: Plan, least: Halves, repaired: Callable[[Plan, int], np.ndarray]) -> Halves | None:
    """The plan's KL on both halves, or None as soon as it is no better than `least` on one, or by little on both.

    Of many plans that are no better, one is by chance. The windows of both plans are the same, so it is the gain on
    each of them whose mean has to stand out from its standard error (a paired t-test).
    """
    found = []
    for half, other in enumerate(least):
        found.append(repaired(plan, half))
        if found[-1].mean() >= other.mean():
            return None
    gain = np.concatenate(least) - np.concatenate(found)
    return tuple(found) if gain.mean() > MARGIN * gain.std(ddof=1) / len(gain) ** 0.5 else None


def mean(halves: Halves) -> float:
    return float(np.concatenate(halves).mean())


def gone_before(queue: Queue, job: AllocateJob) -> np.ndarray:
    """[bundles] bool: what the step before of `iterative_steps` removed."""
    if job.before is None:
        return np.zeros(len(queue.block), bool)
    spent = [block.cost - job.before.kept_cost(block) for block in job.layout.blocks()]
    return np.array(
        [queue.spent_by(b, n) <= spent[b] for b, n in zip(queue.block.tolist(), queue.after.tolist(), strict=True)],
        bool,
    )


def tried(queue: Queue, block: int) -> list[int]:
    """The values of `gone` that one block is tried at, ascending: those nearest to the shares in TRIED that limits allow."""
    allowed = np.sort(queue.after[queue.block == block])
    if not allowed.size:
        return []
    spent = np.array([queue.spent_by(block, n) for n in allowed.tolist()])
    whole = queue.spent_by(block, int(queue.units[block]))
    return sorted({int(allowed[np.argmin(np.abs(spent - share * whole))]) for share in TRIED})


def priced(queue: Queue, sizes: list[list[int]], judged: Callable[[int, int], float]) -> np.ndarray:
    """[bundles]: KL over parameters, ascending within a block. sizes [blocks]: `gone` to try; judged(block, gone) -> KL.

    In the middle between two points of the hull the price is its slope there, and between these it rises by equal factors,
    as the KL of ever smaller blocks does; it begins at half of the first slope, as a small change costs its square. Blocks
    are tried last layer first: what comes before them is the dense model's and need not be run again.
    """
    price = np.empty(len(queue.block))
    for block in range(len(queue.units) - 1, -1, -1):
        mine = np.flatnonzero(queue.block == block)
        if not mine.size:
            continue
        points = [(0, 0.0)] + [(queue.spent_by(block, n), max(judged(block, n), 0.0)) for n in sizes[block]]
        cost, kl = map(np.array, zip(*hull(points), strict=True))
        slopes, middles = np.maximum(np.diff(kl) / np.diff(cost), np.finfo(float).tiny), (cost[1:] + cost[:-1]) / 2
        # a block's bundles stand in the order in which they go
        spent = np.cumsum(queue.cost[mine]) - queue.cost[mine] / 2
        price[mine] = np.exp(np.interp(spent, [0, *middles], np.log([slopes[0] / 2, *slopes])))
    return price


def directions(queue: Queue, seed: int) -> Iterator[np.ndarray]:
    """Endless changes of log prices [blocks]: of attention or MLPs by waves over the depth, then of one block by chance."""
    depth = queue.layer / max(1, queue.layer.max())
    for wave in range(WAVES):
        # in the first wave all MLPs are dearer where all attention is cheaper
        for part in (queue.attention, ~queue.attention) if wave else (queue.attention,):
            along = part * np.cos(np.pi * wave * depth)
            yield from (along, -along)
    random = np.random.default_rng(seed)
    while True:
        for block in random.permutation(len(queue.units)):
            yield random.choice([-1.0, 1.0]) * (np.arange(len(queue.units)) == block)
