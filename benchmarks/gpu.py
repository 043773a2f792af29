"""What sweep, plan and repair cost on one device: the shape of Llama-3-8B in bf16 with random weights.

    python benchmarks/gpu.py --json gpu.json                                  # one GPU, under eight minutes
    python benchmarks/gpu.py --json gpu.json --device cpu --shape tiny        # try it out

Each stage is one row: seconds, peak memory of the device, and the share of the floor that it reaches. The floor is what
`cost.py` counts, at the rates of one large matrix product of each dtype on the same device. The rows are written as they
come. A stage that does not fit in memory or time says so in its row. Needs twice the weights in free memory for the plain
run, and their size (16 GB) on the disk of the temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from cost import CURVATURE, PLAIN, REPAIR, TAYLOR, Cost, Shape, stages, total
from sweep import layout_of, plain_backward, write_checkpoint
from transformers import LlamaConfig

from hgsp_core.allocate.contract import AllocateJob
from hgsp_core.allocate.ranking import Global, GlobalParams
from hgsp_core.artifacts import Plan, Statistics
from hgsp_core.checkpoint.load import load_model
from hgsp_core.checkpoint.read import tensor_shapes
from hgsp_core.engine.collectors import TaylorAbs
from hgsp_core.engine.errors import EngineError
from hgsp_core.engine.run import run_sweep
from hgsp_core.engine.weights import Resident, Streamed, Weights
from hgsp_core.repair.least_squares import LeastSquares
from hgsp_core.repair.least_squares_params import LeastSquaresParams
from hgsp_core.repair.sequential import repair_blocks
from hgsp_core.score.contract import ScoreJob
from hgsp_core.score.params import CurvatureParams
from hgsp_core.score.scorers import Curvature

SHAPES = {"8b": Shape(), "tiny": Shape(256, 704, 4, 8, 2, 32, 1024, windows=16)}
#: tokens of a micro-batch
MICRO_BATCH = 2048
RATIO = 0.2


class OutOfTime(Exception):
    """The limit was reached between two layers."""


@dataclass
class Bench:
    device: torch.device
    limit: float
    json: Path
    facts: dict[str, Any]
    rates: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        """Seconds since the start, after the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic() - self.start

    def progress(self, done: int, of: int) -> None:
        if done % max(1, of // 4) == 0:
            print(f"  {done}/{of}, {self.now():.0f} s", flush=True)
        if time.monotonic() - self.start > self.limit:
            raise OutOfTime

    def row(self, stage: str, s: Shape, work: Callable[[], Any], cost: Cost | None = None) -> Any:
        """Run one stage and write its row; returns what it gives, or None where it could not be run to its end."""
        row: dict[str, Any] = {"stage": stage, "windows": s.windows, "length": s.length}
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        found, before = None, self.now()
        try:
            if before > self.limit:
                raise OutOfTime
            found = work()
        except OutOfTime:
            row["why_not"] = f"over the limit of {self.limit:.0f} s"
        except (torch.OutOfMemoryError, EngineError) as error:
            row["why_not"] = str(error).splitlines()[0]
        row["seconds"] = self.now() - before
        if self.device.type == "cuda":
            row["peak_bytes"] = torch.cuda.max_memory_allocated(self.device)
        if cost and "why_not" not in row:
            row["floor_seconds"] = sum(getattr(cost, name) / rate for name, rate in self.rates.items())
            row["share_of_floor"] = row["floor_seconds"] / row["seconds"]
        self.rows.append(row)
        print({name: round(v, 3) if isinstance(v, float) else v for name, v in row.items()}, flush=True)
        self.json.write_text(json.dumps({**self.facts, "flops": self.rates, "rows": self.rows}, indent=2) + "\n")
        return found


def rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOPs a second of one product of square matrices."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    sync = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    (a @ b, sync())  # the first one chooses a kernel
    start = time.monotonic()
    for _ in range(5):
        a @ b
    sync()
    return 5 * 2 * size**3 / (time.monotonic() - start)


def planned(source: Weights, statistics: Statistics) -> Plan:
    scores = Curvature(CurvatureParams())(ScoreJob(source.layout, statistics, 0))
    params = GlobalParams(ratio=RATIO)
    return Global(params)(AllocateJob(source.layout, scores, None))


def measure(bench: Bench, s: Shape, source: Weights, name: str) -> None:
    """Plain run, if the weights are resident; sweeps; plan; repair."""
    counted, batch = stages(s, RATIO), max(1, MICRO_BATCH // s.length)
    ids = np.random.default_rng(0).integers(0, s.vocabulary, (s.windows, s.length))
    head_weights = Cost(bf16=2 * s.predicted * s.head)

    def swept(collector: Any) -> Statistics:
        return run_sweep(source, source.layout, ids, [collector], batch, bench.progress, "device", print)

    if isinstance(source, Resident):
        cost = total(*PLAIN, of=counted) + head_weights
        bench.row(f"{name}: plain forward and backward", s, lambda: plain_backward(source.model, ids, batch), cost)
        source.model.zero_grad()
    bench.row(f"{name}: sweep, taylor", s, lambda: swept(TaylorAbs()), total(*TAYLOR, of=counted))
    (prices,) = Curvature(CurvatureParams()).collectors
    found = bench.row(f"{name}: sweep, curvature", s, lambda: swept(prices), total(*CURVATURE, of=counted))
    plan = bench.row(f"{name}: plan", s, lambda: planned(source, found)) if found else None
    if plan:
        method = LeastSquares(LeastSquaresParams())
        bench.row(
            f"{name}: repair, least-squares",
            s,
            lambda: repair_blocks(source, plan, method, ids, batch, lambda changed: None, bench.progress),
            total(*REPAIR, of=counted),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--limit-s", type=float, default=450, help="seconds after which no further layer is started")
    options = parser.parse_args()
    s, device = SHAPES[options.shape], torch.device(options.device)
    gpu = device.type == "cuda"
    facts = {
        "shape": options.shape,
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "torch": torch.__version__,
        "micro_batch_tokens": MICRO_BATCH,
        "ratio": RATIO,
    }
    bench = Bench(device, options.limit_s, options.json, facts)
    size = 8192 if gpu else 512
    types = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}
    bench.rates |= {name: rate(device, dtype, size) for name, dtype in types.items()}
    print({name: f"{found / 1e12:.3g} TFLOP/s" for name, found in bench.rates.items()}, flush=True)
    dtype = torch.bfloat16 if gpu else torch.float32  # a CPU without bf16 instructions is some 30 times slower in it
    if not gpu:
        bench.rates["bf16"] = bench.rates["fp32"]
    config = LlamaConfig(
        **s.config,
        max_position_embeddings=8192,
        dtype=str(dtype).removeprefix("torch."),
    )
    with tempfile.TemporaryDirectory() as folder:
        shards, directory = Path(folder) / "shards", Path(folder) / "model"
        shards.mkdir()
        bench.row("write the checkpoint", s, lambda: write_checkpoint(directory, config, shards, options.device))
        layout = layout_of(config, tensor_shapes(directory))

        def resident() -> Resident:
            return Resident(load_model(directory, dtype, device)[0], layout)

        for shape, name in ((s, "resident"), (s, "streamed"), (replace(s, windows=16, length=2048), "resident")):
            if shape.length > 128 and not gpu:
                continue
            if name == "resident":
                source: Weights | None = bench.row("load", shape, resident)
            else:
                source = Streamed(directory, layout, dtype, device)
            if source is not None:
                measure(bench, shape, source, name)
            del source


if __name__ == "__main__":
    main()
