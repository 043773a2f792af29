"""Search: rates moved between blocks under one budget, judged by what the model predicts on held-out windows.

Which units of a block go first is decided by their scores; how many is decided here:

1. Every block is cut by itself to a few sizes, and the KL divergence to the dense model is measured (`sweep/judge.py`).
   The lower convex hull of these points gives each of the block's units a price: KL over parameters.
2. The knapsack of H-GSP takes units in the order of these prices. Its plan and that of H-GSP's own scores are judged; the
   better one is the start.
3. With `moves`, both plans are judged once more after the repair that the recipe asks for, and the better one is the start.
   `moves` times, one block gives up more and another gets back as much; what does better is kept. After each ROUND of them
   the plan is repaired and judged on windows that no move has seen, and taken back where that does not confirm it. Step 1 assumes that blocks do not depend
   on each other, and its judge that the layers below a writer are whole; this is where neither has to hold.

The result is never worse than H-GSP's plan on these windows (repaired, where there are moves). After Týr-the-Pruner (Li et al. 2025, arXiv 2503.09657), which
searches over sparsities of blocks with the error of the whole model; the prices by block are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from hgsp_core.allocate.budget import Capacity, Queue, fill, plan_within
from hgsp_core.allocate.limits import in_force
from hgsp_core.artifacts import Plan
from hgsp_core.builtin.hgsp import Bounds, allocate, prepared
from hgsp_core.builtin.search_params import SearchParams
from hgsp_core.layout import Layout
from hgsp_core.types import AllocateJob

#: shares of a block's parameters that it is tried without
TRIED = (0.15, 0.3, 0.5, 0.75, 1.0)
#: forwards over the calibration set that trying every block may cost
FORWARDS = 4
#: shares of a block's parameters that a move takes
STEPS = (1 / 8, 1 / 16, 1 / 32)
#: moves between two looks at the repaired model
ROUND = 25


class Search:
    """Prices by block, H-GSP's knapsack over them, and moves between blocks."""

    def __init__(self, params: SearchParams):
        self.params = params
        self.needs_priors = params.temperature != 0 or params.limits.freeze_most_important > 0

    def held_out(self, layout: Layout, samples: int) -> int:
        """Windows that judge. Each block is tried in len(TRIED) sizes, which on average run half of the layers."""
        if self.params.samples != "auto":
            return self.params.samples
        tries = len(layout.blocks()) * len(TRIED)
        return max(2, min(samples // 4, round(2 * FORWARDS * samples / tries)))

    def __call__(self, job: AllocateJob) -> Plan:
        p, layout = self.params, job.layout
        queue, layer_min = prepared(p, job)
        sizes = [tried(queue, block) for block in range(len(queue.units))]
        total = sum(map(len, sizes)) + 2 + (p.moves + 2 + -(-p.moves // ROUND) if p.moves else 0)
        done = iter(range(1, total + 1))

        def judged(plan: Plan, by: Callable[[Plan], float] = job.judge) -> float:
            found = by(plan)
            job.progress(next(done), total)
            return found

        def plan_of(gone: np.ndarray) -> Plan:
            return queue.plan(layout, gone, p.budget(layout), ())

        prices = priced(queue, sizes, lambda block, n: judged(plan_of(_only(queue, block, n))))
        found = []
        for order in (queue, prices):
            plan = plan_within(layout, order, p, lambda budget: allocate(order, p, budget, layer_min), in_force(p))
            gone, _ = allocate(order, p, p.budget(layout), layer_min)
            found.append(Found(judged(plan_of(gone)), gone, plan.notes))
        note = f"search: KL to the dense model {found[0].kl:.4f} (H-GSP), {found[1].kl:.4f} (prices of blocks)"
        if not p.moves:
            start = min(found, key=lambda f: f.kl)
            return replace(plan_of(start.gone), notes=(*start.notes, f"{note}."))

        def repaired(gone: np.ndarray) -> float:
            return judged(plan_of(gone), job.judge.repaired)

        start, least = min(((f, repaired(f.gone)) for f in found), key=lambda pair: pair[1])
        bounds = Bounds.of(p.limits, queue, p.budget(layout), layer_min)
        best, confirmed, now = start, least, start
        job.judge.rebase(plan_of(now.gone))
        for number, moved in enumerate(moves(prices, bounds, lambda: now.gone, p.moves, p.seed), 1):
            if (kl := judged(plan_of(moved))) < now.kl:
                now = Found(kl, moved, start.notes)
                job.judge.rebase(plan_of(moved))
            if (number % ROUND == 0 or number == p.moves) and now is not best:
                if (kl := repaired(now.gone)) < confirmed:
                    best, confirmed = now, kl
                else:  # the judge was wrong about these moves: on from the last plan that held
                    now = best
                    job.judge.rebase(plan_of(now.gone))
        note += f"; repaired {least:.4f} before moves, {confirmed:.4f} after."
        return replace(plan_of(best.gone), notes=(*best.notes, note))


@dataclass(frozen=True)
class Found:
    """A state `gone` [blocks], what the judge says of it, and what there is to say about its knapsack."""

    kl: float
    gone: np.ndarray
    notes: tuple[str, ...]


def tried(queue: Queue, block: int) -> list[int]:
    """The values of `gone` that one block is tried at, ascending: those nearest to the shares in TRIED that limits allow."""
    allowed = np.sort(queue.after[queue.block == block])
    if not allowed.size:
        return []
    spent = np.array([queue.spent_by(block, n) for n in allowed.tolist()])
    whole = queue.spent_by(block, int(queue.units[block]))
    return sorted({int(allowed[np.argmin(np.abs(spent - share * whole))]) for share in TRIED})


def priced(queue: Queue, sizes: list[list[int]], judged: Callable[[int, int], float]) -> Queue:
    """The queue in the order of KL over parameters. sizes [blocks]: `gone` to try; judged(block, gone) -> KL.

    Blocks are tried last layer first: what comes before them is the dense model's and need not be run again.
    """
    price = np.empty(len(queue.block))
    for block in range(len(queue.units) - 1, -1, -1):
        mine = np.flatnonzero(queue.block == block)
        if not mine.size:
            continue
        points = [(0, 0.0)] + [(queue.spent_by(block, n), max(judged(block, n), 0.0)) for n in sizes[block]]
        ends = np.cumsum(queue.cost[mine])  # a block's bundles stand in the order in which they go
        cost, kl = zip(*hull(points))
        slopes = np.diff(kl) / np.diff(cost)
        segment = np.searchsorted(cost[1:], ends - queue.cost[mine] / 2).clip(0, len(slopes) - 1)
        price[mine] = slopes[segment]
    order = np.lexsort((queue.after, queue.block, price))
    return replace(queue, block=queue.block[order], after=queue.after[order], cost=queue.cost[order])


def hull(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The lower convex hull of (cost, KL), ascending in cost: slopes never fall from one segment to the next."""
    kept: list[tuple[int, float]] = []
    for x, y in points:
        while len(kept) > 1:
            (x0, y0), (x1, y1) = kept[-2:]
            if (y1 - y0) * (x - x1) < (y - y1) * (x1 - x0):
                break
            kept.pop()
        kept.append((x, y))
    return kept


def moves(
    queue: Queue, bounds: Bounds, current: Callable[[], np.ndarray], count: int, seed: int
) -> Iterator[np.ndarray]:
    """`count` neighbours [blocks] of the current state, each within the bounds; fewer where none is found."""
    random = np.random.default_rng(seed)
    allowed = [np.append(0, np.sort(queue.after[queue.block == block])) for block in range(len(queue.units))]
    movable = [block for block, sizes in enumerate(allowed) if len(sizes) > 1]
    found = 0
    for _ in range(20 * count if len(movable) > 1 else 0):
        if found == count:
            return
        loses, gains = random.choice(movable, 2, replace=False)
        share = random.choice(STEPS)
        gone = current().copy()
        for block, sign in ((loses, 1), (gains, -1)):
            whole = queue.spent_by(block, int(queue.units[block]))
            wanted = queue.spent_by(block, int(gone[block])) + sign * share * whole
            spent = np.array([queue.spent_by(block, int(n)) for n in allowed[block]])
            nearest = int(np.argmin(np.abs(spent - wanted)))
            now = int(np.searchsorted(allowed[block], gone[block]))
            gone[block] = allowed[block][np.clip(nearest if nearest != now else now + sign, 0, len(spent) - 1)]
        gone = _within(queue, bounds, gone, allowed, random.permutation(movable), fixed=(loses, gains))
        if gone is not None and not np.array_equal(gone, current()):
            found += 1
            yield gone


def _within(queue: Queue, bounds: Bounds, gone, allowed, order, fixed) -> np.ndarray | None:
    """The state made to use up the budget: blocks in this order give back what is too much, then the knapsack goes on."""
    over = int(queue.spent(gone).sum()) - bounds.budget
    for block in order:
        if over <= 0:
            break
        if block in fixed:
            continue
        now = queue.spent_by(block, int(gone[block]))
        spent = np.array([queue.spent_by(block, int(n)) for n in allowed[block]])
        back = allowed[block][max(np.searchsorted(spent, now - over, side="right") - 1, 0)]
        gone[block] = min(back, gone[block])
        over = int(queue.spent(gone).sum()) - bounds.budget
    if over > 0:
        return None
    moved = np.isin(np.arange(len(gone)), fixed).astype(np.int16)
    hold = Capacity(moved, np.array([bounds.budget, int(queue.spent(gone)[moved == 1].sum())]))
    gone = fill(queue, gone, [*bounds.capacities, hold])
    return gone if bounds.allow(queue, gone) else None


def _only(queue: Queue, block: int, n: int) -> np.ndarray:
    """[blocks]: one block without its first n, all others whole."""
    gone = np.zeros_like(queue.units)
    gone[block] = n
    return gone
