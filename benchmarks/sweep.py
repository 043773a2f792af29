"""What the sweep costs, against one plain forward and backward over the same tokens.

    OMP_NUM_THREADS=1 python benchmarks/sweep.py [--json FILE] [--only time|memory] [--repeats 5]

Time is CPU time of this process, plain and sweep taking turns; ratios are medians over the turns. Memory is the peak
resident set of a process of its own, on a Llama-3.2-1B shape with random weights. The table is in docs/benchmarks/engine.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import LlamaConfig, LlamaForCausalLM

from hgsp_core import Layout, pre_norm_decoder, read_layout
from hgsp_core.checkpoint.read import tensor_shapes, weight_bytes
from hgsp_core.engine.collectors import (
    InputMoments,
    InputNorm,
    OutputNorm,
    RemovalLoss,
    ResidualCosine,
    TaylorAbs,
    WandaAbs,
)
from hgsp_core.engine.run import run_sweep
from hgsp_core.engine.weights import Resident, Streamed
from hgsp_core.pipeline import peak_memory

BARS = {
    "taylor_time_ratio_kept": 1.15,
    "taylor_time_ratio_rerun": 1.45,
    "forward_collectors_time_ratio": 1.15,
    "streamed_memory_ratio": 0.35,
    "streamed_memory_growth_8_to_32": 0.10,
    "removal_prior_forward_ratio": 0.60,
}
#: a vocabulary so small that the head, which the sweep does not train, flatters no ratio
TIME_SHAPE = dict(hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, vocab_size=1024)
TIME_SHAPE |= dict(num_attention_heads=16, num_key_value_heads=4, tie_word_embeddings=False)
#: Llama-3.2-1B
MEMORY_SHAPE = dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, vocab_size=128256, head_dim=64)
MEMORY_SHAPE |= dict(num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=True)
FREE = [ResidualCosine(), OutputNorm(), InputNorm(), InputMoments(), WandaAbs()]
BATCH = 4


def tokens(samples: int, vocabulary: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocabulary, (samples, 128))


def layout_of(config: LlamaConfig, shapes) -> Layout:
    return read_layout(pre_norm_decoder("llama"), config.to_dict(), shapes)


# ---------------------------------------------------------------- time


def plain_backward(model, ids: np.ndarray, batch_size: int = BATCH) -> None:
    """What a peer does: the whole model's gradients, summed over micro-batches."""
    model.zero_grad()
    for batch in torch.from_numpy(ids).to(model.device).split(batch_size):
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()


def plain_forward(model, ids: np.ndarray) -> None:
    with torch.no_grad():
        for batch in torch.from_numpy(ids).split(BATCH):
            model(input_ids=batch, labels=batch, use_cache=False)


def plain_layers(model, ids: np.ndarray) -> None:
    """The forward that collectors without gradients need: no head, no loss."""
    with torch.no_grad():
        for batch in torch.from_numpy(ids).split(BATCH):
            model.model(input_ids=batch, use_cache=False)


def cpu_seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure_time(repeats: int) -> dict[str, float]:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TIME_SHAPE))
    source = Resident(model, layout_of(model.config, {n: p.shape for n, p in model.named_parameters()}))
    ids, few = tokens(16, 1024), tokens(4, 1024)
    layers = TIME_SHAPE["num_hidden_layers"]

    def sweep(collectors, of=ids, memory="auto"):
        return lambda: run_sweep(source, source.layout, of, collectors, BATCH, memory=memory)

    pairs = {
        "taylor_time_ratio_kept": (sweep([TaylorAbs()], memory="graphs"), lambda: plain_backward(model, ids)),
        "taylor_time_ratio_rerun": (sweep([TaylorAbs()], memory="device"), lambda: plain_backward(model, ids)),
        "forward_collectors_time_ratio": (sweep(FREE), lambda: plain_layers(model, ids)),
        "removal_prior_forward_ratio": (
            sweep([RemovalLoss(samples=4)], few),
            lambda: [plain_forward(model, few) for _ in range(3)],  # one forward a kind; times the layers, below
        ),
    }
    found = {}
    for name, (ours, plain) in pairs.items():
        ours(), plain()
        turns = [cpu_seconds(ours) / cpu_seconds(plain) for _ in range(repeats)]
        found[name] = statistics.median(turns) / (layers if name.startswith("removal") else 1)
        print(f"{name} {found[name]:.3f}", file=sys.stderr)
    model.zero_grad()
    floor = flops(lambda: plain_backward(model, ids))
    for memory, name in (("graphs", "kept"), ("device", "rerun")):
        found[f"taylor_flops_ratio_{name}"] = flops(sweep([TaylorAbs()], memory=memory)) / floor
    return found


#: with the product that adds to what is there, of which torch knows only the other form
COUNTED = {**flop_registry, torch.ops.aten.addmm_: flop_registry[torch.ops.aten.addmm]}


class Flops(TorchDispatchMode):
    """Floating-point operations of matrix products and attention; FlopCounterMode itself cannot do autograd.grad."""

    total = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        output = function(*arguments, **(keywords or {}))
        if count := COUNTED.get(function.overloadpacket):
            self.total += count(*arguments, **(keywords or {}), out_val=output)
        return output


def flops(work) -> int:
    with Flops() as counter:
        work()
    return counter.total


# ---------------------------------------------------------------- memory


def write_checkpoint(directory: Path, config: LlamaConfig, shards: Path, device: str = "cpu") -> None:
    """A random checkpoint, a file a layer; the files are shared between checkpoints through links."""
    directory.mkdir()
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(directory)
    with torch.device("meta"):
        parameters = dict(LlamaForCausalLM(config).named_parameters())
    files: dict[str, list[str]] = {}
    for name in parameters:
        part = name.split(".")[2] if ".layers." in name else "outside"
        files.setdefault(f"{part}.safetensors", []).append(name)
    for file, names in files.items():
        if not (shards / file).exists():
            save_file({n: random_weight(parameters[n].shape, config.dtype, device) for n in names}, shards / file)
        (directory / file).symlink_to(shards / file)
    weight_map = {name: file for file, names in files.items() for name in names}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def random_weight(shape: torch.Size, dtype: torch.dtype, device: str) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, device=device) * 0.02 if len(shape) > 1 else torch.ones(shape, dtype=dtype)


def measured_apart(what: str, samples: int, directory: Path) -> dict[str, float]:
    """Run one measurement of this file in a process of its own."""
    command = [sys.executable, __file__, "--apart", what, str(samples), str(directory)]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
    print(what, directory.name, found, file=sys.stderr)
    return found


def apart(what: str, samples: int, directory: Path) -> None:
    """Print the peak resident set in bytes of a plain backward, or of a streamed sweep."""
    found = {}
    ids = tokens(samples, MEMORY_SHAPE["vocab_size"])
    if what == "plain":
        model = LlamaForCausalLM.from_pretrained(directory, dtype="auto")
        plain_backward(model, ids)
    else:
        config = LlamaConfig.from_pretrained(directory)
        source = Streamed(directory, layout_of(config, tensor_shapes(directory)), config.dtype)
        said = []
        run_sweep(source, source.layout, ids, [TaylorAbs()], BATCH, memory="device", say=said.append)
        found["bytes_read_ratio"] = source.shards.bytes_read / weight_bytes(directory)
        found["boundaries"] = len(source.layout.layers) * ids.size * config.hidden_size * config.dtype.itemsize
    found["peak"] = peak_memory()
    print(json.dumps(found))


def measure_memory(dtype: torch.dtype) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        directories = {layers: Path(folder) / str(layers) for layers in (8, 16, 32)}
        shards = Path(folder) / "shards"
        shards.mkdir()
        for layers, directory in directories.items():
            config = LlamaConfig(
                **MEMORY_SHAPE | {"num_hidden_layers": layers}, dtype=str(dtype).removeprefix("torch.")
            )
            write_checkpoint(directory, config, shards)
        plain = measured_apart("plain", 2 * BATCH, directories[16])  # more micro-batches add nothing to its peak
        # for the growth with depth, few tokens: it is what else grows that matters
        samples = {8: BATCH, 16: 16, 32: BATCH}
        streamed = {layers: measured_apart("streamed", samples[layers], directories[layers]) for layers in directories}
    without_boundaries = {layers: streamed[layers]["peak"] - streamed[layers]["boundaries"] for layers in (8, 32)}
    return {
        "streamed_memory_ratio": streamed[16]["peak"] / plain["peak"],
        "streamed_memory_growth_8_to_32": without_boundaries[32] / without_boundaries[8] - 1,
        "plain_peak_bytes": plain["peak"],
        **{f"streamed_peak_bytes_{layers}": found["peak"] for layers, found in streamed.items()},
        "streamed_bytes_read_ratio": streamed[16]["bytes_read_ratio"],
    }


# ---------------------------------------------------------------- report


def table(found: dict[str, float]) -> str:
    lines = ["| measure | found | bar |", "|---|---|---|"]
    for name, value in found.items():
        bar = f"≤ {BARS[name]:.2f}" if name in BARS else ""
        shown = f"{value / 2**30:.2f} GiB" if "_bytes" in name and "ratio" not in name else f"{value:.3f}"
        lines.append(f"| {name} | {shown} | {bar} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument("--only", choices=["time", "memory"], help="measure only this half")
    slow = "a CPU without bf16 instructions multiplies bf16 some 30 times slower"
    types = ["float32", "bfloat16"]
    parser.add_argument("--dtype", choices=types, default="float32", help=f"of the weights in memory; {slow}")
    parser.add_argument("--repeats", type=int, default=5, help="turns per ratio of time")
    parser.add_argument("--apart", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.apart:
        what, samples, directory = options.apart
        return apart(what, int(samples), Path(directory))
    found = {}
    if options.only != "memory":
        found |= measure_time(options.repeats)
    if options.only != "time":
        found |= measure_memory(getattr(torch, options.dtype))
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
