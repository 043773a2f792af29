"""What pruning a model costs, counted from its shapes: FLOPs and bytes of each stage. Nothing is run.

    python benchmarks/cost.py                  # the table of docs/benchmarks/curvature.md: Llama-3-8B, 128 x 128 tokens
    python benchmarks/cost.py --check          # against FLOPs that torch counts while a small model is run

A product of matrices [a, b] and [b, c] is 2abc FLOPs. Attention counts as the full square, and its backward as two and a half
times its forward, as torch's FlopCounterMode does. Only products and factorisations of matrices are counted. `--check` is of
the stages that torch can count: it knows no factorisation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

#: as `BATCH` in hgsp_core/engine/curvature.py and in hgsp_core/repair/least_squares.py
PRICES_BATCH, RESELECT_BATCH = 1 / 16, 1 / 8
#: `RIDGES` of least_squares.py, its targets and those that follow from no other sum; `OUTPUTS` of ridge.py; `HELD_OUT` of sequential.py
RIDGES, TARGETS, MEASURED_TARGETS, OUTPUTS, HELD_OUT = 3, 3, 2, 128, 1 / 8
#: part of the products of a Gram matrix that are computed (`BANDS` in hgsp_core/engine/sums.py)
GRAM = 9 / 16
#: FLOPs of n x n: an inverse by Cholesky, a factorisation
INVERSE, CHOLESKY = 1, 1 / 3


@dataclass(frozen=True)
class Shape:
    """A pre-norm decoder of `layers`, and the tokens that it reads: `windows` of `length`."""

    hidden: int = 4096
    ffn: int = 14336
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    vocabulary: int = 128256
    windows: int = 128
    length: int = 128
    itemsize: int = 2

    @property
    def config(self) -> dict[str, Any]:
        """The sizes as LlamaConfig has them."""
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": False,
        }

    @property
    def tokens(self) -> int:
        return self.windows * self.length

    @property
    def predicted(self) -> int:
        return self.tokens - self.windows

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def qkv(self) -> int:
        """Weights of q, k and v."""
        return self.hidden * (self.query + 2 * self.kv_heads * self.head_dim)

    @property
    def gates(self) -> int:
        """Weights of gate and up."""
        return 2 * self.hidden * self.ffn

    @property
    def layer(self) -> int:
        """Weights of the linears of a layer."""
        return self.qkv + self.gates + self.hidden * (self.query + self.ffn)

    @property
    def attention(self) -> int:
        """FLOPs of one layer's attention over all tokens, without its linears."""
        return 4 * self.query * self.length * self.tokens

    @property
    def head(self) -> int:
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + 2 * self.head

    @property
    def writers(self) -> list[tuple[int, int]]:
        """(columns, columns of a unit) of o_proj and of down_proj."""
        return [(self.query, self.query // self.kv_heads), (self.ffn, 1)]


@dataclass(frozen=True)
class Cost:
    """FLOPs by dtype; bytes of weights read from the checkpoint where they are streamed."""

    bf16: float = 0
    fp32: float = 0
    fp64: float = 0
    read: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def flops(self) -> float:
        return self.bf16 + self.fp32 + self.fp64


def stages(s: Shape, ratio: float = 0.2) -> dict[str, Cost]:
    """Stage -> its cost; what a `Shape` asks of plain forward and backward, of the sweep, of a plan and of a repair."""
    linears, layers, t = 2 * s.layer * s.tokens, s.layers, s.tokens
    weights, head = s.itemsize * layers * s.layer, s.itemsize * s.head
    forward = Cost(bf16=layers * (linears + s.attention), read=weights)
    columns = [n for n, _ in s.writers]
    return {
        "forward": forward,
        "LM head and loss, forward and backward": Cost(bf16=4 * s.predicted * s.head, read=head),
        "backward by activations": Cost(bf16=layers * (linears + 2.5 * s.attention), read=weights),
        "backward by weights": Cost(bf16=layers * linears),
        "checkpointed layers run again": replace(forward, read=0),
        "A: Gram matrices of writers' inputs": Cost(fp32=layers * sum(GRAM * 2 * n * n * t for n in columns)),
        "B: Gram matrices of output gradients": Cost(fp32=layers * len(columns) * GRAM * 2 * s.hidden**2 * t),
        "root of B, inverse of A": Cost(fp64=layers * sum(CHOLESKY * s.hidden**3 + INVERSE * n**3 for n in columns)),
        "eliminations": Cost(
            fp64=layers
            * sum(2 * s.hidden**2 * n + eliminated(s.hidden, n, width, 0, PRICES_BATCH) for n, width in s.writers)
        ),
        "knapsack": Cost(),
        "repair: both models forward": Cost(bf16=2 * layers * (linears + s.attention), read=weights),
        "repair: moments": Cost(fp32=sum(moments(s))),
        "repair: errors on held-out windows": Cost(fp32=sum(errors(s, ratio))),
        "repair: fits, choice of units": Cost(fp64=sum(solves(s, ratio))),
        "repair: readers absorb": Cost(fp32=2 * s.hidden * (layers * (s.qkv + s.gates) + s.head), read=head),
    }


def eliminated(rows: int, columns: int, width: int, keep: int, batch: float) -> float:
    """Of one backward elimination from units of `width` columns to `keep` units, as `hgsp_core/engine/elimination.py` does it."""
    flops = 0.0
    for before, gone in steps(columns, width, keep, batch):
        flops += sum(products(rows, columns, width, before, gone)) + sum(
            factorisations(rows, columns, width, before, gone)
        )
    return flops


def steps(columns: int, width: int, keep: int, batch: float) -> Iterator[tuple[int, int]]:
    """(columns that are gone, columns that go at once)."""
    units = left = columns // width
    while left > keep:
        going = min(left - keep, max(1, int(batch * (left - keep))))
        yield (units - left) * width, going * width
        left -= going


def products(rows: int, columns: int, width: int, before: int, gone: int) -> Iterator[float]:
    left = columns - before
    yield 2 * gone * before * left  # rows of the inverse
    yield 2 * rows * gone * (left - gone)  # weights
    if width > 1:
        yield 2 * width * (rows * left + gone * (left - gone))  # blocks on the diagonal


def factorisations(rows: int, columns: int, width: int, before: int, gone: int) -> Iterator[float]:
    left = columns - before
    yield (CHOLESKY + 2) * width**2 * left  # errors
    yield CHOLESKY * gone**3 + gone**2 * (left + rows)


def kept(s: Shape, ratio: float) -> Iterator[tuple[int, int, int]]:
    """Of each writer: columns, columns of a unit, units that stay."""
    for n, width in s.writers:
        yield n, width, round((1 - ratio) * (n // width))


def moments(s: Shape) -> Iterator[float]:
    t = (1 - HELD_OUT) * s.tokens
    for n, _ in s.writers:  # x xᵀ, and y xᵀ of the measured targets; the target `own` follows from x xᵀ
        yield s.layers * (GRAM * 2 * n * n + MEASURED_TARGETS * 2 * n * s.hidden) * t
        yield s.layers * 2 * s.hidden * n * n
    yield 2 * s.layers * (GRAM + 1) * 2 * s.hidden**2 * t  # readers of all blocks but the first, and the head


def errors(s: Shape, ratio: float) -> Iterator[float]:
    """The old weights, the ridges by some outputs, and each fit: of the planned units, and of others."""
    t, some = HELD_OUT * s.tokens, min(s.hidden, OUTPUTS)
    for _, width, units in kept(s, ratio):
        yield s.layers * (RIDGES * some + (1 + 2 * TARGETS) * s.hidden) * 2 * units * width * t
    yield 2 * s.layers * (RIDGES * some + 2 * s.hidden) * 2 * s.hidden * t


def solves(s: Shape, ratio: float) -> Iterator[float]:
    some = min(s.hidden, OUTPUTS)
    for n, width, units in kept(s, ratio):
        m = units * width
        yield s.layers * (RIDGES * (CHOLESKY * m**3 + 2 * m * m * some) + TARGETS * 2 * m * m * s.hidden)
        other = eliminated(s.hidden, n, width, units, RESELECT_BATCH)
        yield s.layers * (INVERSE * n**3 + MEASURED_TARGETS * 2 * s.hidden * n * n + TARGETS * other)
    yield 2 * s.layers * (RIDGES * (CHOLESKY * s.hidden + 2 * some) + 2 * s.hidden) * s.hidden**2  # readers, the head


def live(s: Shape) -> dict[str, float]:
    """Bytes on the device at the worst moment of a streamed sweep for prices: the elimination of an MLP."""
    stream = s.tokens * s.hidden * s.itemsize
    return {
        "weights of one layer": s.itemsize * s.layer,
        "residual streams' gradients": stream,
        "B of both blocks, fp32": 2 * 4 * s.hidden**2,
        "A of both blocks, fp32": 4 * (s.query**2 + s.ffn**2),
        "H, its factor and its inverse, fp64": 3 * 8 * s.ffn**2,
        "W in the metric of B, twice, fp64": 2 * 8 * s.hidden * s.ffn,
        "checkpointed activations (device, host or disk)": s.layers * stream,
    }


# ---------------------------------------------------------------- report


def total(*names: str, of: dict[str, Cost]) -> Cost:
    return sum((of[name] for name in names), Cost())


PLAIN = ("forward", "LM head and loss, forward and backward", "backward by activations", "backward by weights")
TAYLOR = (*PLAIN, "checkpointed layers run again")
CURVATURE = (
    *PLAIN[:3],
    "checkpointed layers run again",
    "A: Gram matrices of writers' inputs",
    "B: Gram matrices of output gradients",
    "root of B, inverse of A",
    "eliminations",
)
REPAIR = (
    "repair: both models forward",
    "repair: moments",
    "repair: errors on held-out windows",
    "repair: fits, choice of units",
    "repair: readers absorb",
)


def table(s: Shape) -> str:
    counted = stages(s)
    head_weights = Cost(bf16=2 * s.predicted * s.head)  # which only the plain run asks for
    rows = [
        *counted.items(),
        ("**plain forward and backward**", total(*PLAIN, of=counted) + head_weights),
        ("**sweep, `taylor`**", total(*TAYLOR, of=counted)),
        ("**sweep, `curvature`**", total(*CURVATURE, of=counted)),
        ("**repair**", total(*REPAIR, of=counted)),
    ]
    lines = ["| stage | bf16 TFLOP | fp32 TFLOP | fp64 TFLOP | weights read |", "|---|---|---|---|---|"]
    for name, cost in rows:
        cells = [f"{flops / 1e12:,.0f}" if flops else "" for flops in (cost.bf16, cost.fp32, cost.fp64)]
        lines.append(f"| {name} | {' | '.join(cells)} | {f'{cost.read / 1e9:.1f} GB' if cost.read else ''} |")
    lines += ["", "| live at the worst moment of the sweep for prices | GB |", "|---|---|"]
    lines += [f"| {name} | {size / 1e9:.2f} |" for name, size in live(s).items()]
    return "\n".join(lines)


def check() -> None:
    """Count again while a small model is run."""
    import torch
    from sweep import flops, layout_of, plain_backward, plain_layers, tokens
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from transformers import LlamaConfig, LlamaForCausalLM

    from hgsp_core.engine.collectors import TaylorAbs
    from hgsp_core.engine.curvature import RemovalCurvature
    from hgsp_core.engine.run import run_sweep
    from hgsp_core.engine.weights import Resident

    s = Shape(256, 704, 4, 8, 2, 32, 1024, windows=16)
    config = LlamaConfig(**s.config)
    torch.manual_seed(0)
    model, ids = LlamaForCausalLM(config), tokens(s.windows, s.vocabulary)
    source = Resident(model, layout_of(config, {name: p.shape for name, p in model.named_parameters()}))
    counted = stages(s)
    multiplied = s.layers * sum(
        2 * s.hidden**2 * n + sum(sum(products(s.hidden, n, width, *step)) for step in steps(n, width, 0, PRICES_BATCH))
        for n, width in s.writers
    )
    cases = {
        "forward": (lambda: plain_layers(model, ids), counted["forward"].flops),
        "plain forward and backward": (
            lambda: plain_backward(model, ids),
            total(*PLAIN, of=counted).flops + 2 * s.predicted * s.head + 6 * s.windows * s.head,
        ),
        "sweep, taylor": (
            lambda: run_sweep(source, source.layout, ids, [TaylorAbs()], memory="device"),
            total(*TAYLOR, of=counted).flops,
        ),
        "sweep, curvature, without factorisations": (
            lambda: run_sweep(source, source.layout, ids, [RemovalCurvature()], memory="device"),
            total(*CURVATURE[:6], of=counted).flops + multiplied,
        ),
    }
    for name, (work, expected) in cases.items():
        with sdpa_kernel(SDPBackend.MATH):  # torch does not count the attention of CPUs
            found = flops(work)
        print(f"{name}: counted {expected / 1e9:.3f}, torch {found / 1e9:.3f} GFLOP, {expected / found:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with what torch counts on a small model")
    parser.add_argument("--windows", type=int, default=Shape.windows)
    parser.add_argument("--length", type=int, default=Shape.length, help="tokens of a window")
    options = parser.parse_args()
    if options.check:
        check()
    else:
        print(table(Shape(windows=options.windows, length=options.length)))


if __name__ == "__main__":
    main()
