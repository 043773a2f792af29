"""What a model costs to run, measured: time to read a prompt and to generate, memory, cache, multiply-accumulates.

Two models are measured in turns, round by round, the first one changing each round, so that whatever else the machine
does meets both alike; the ratio of their medians is then steadier than either number.

    prefill_seconds             one forward pass over the prompt, filling the cache, logits of the last token alone
    decode_seconds_per_token    one forward pass over one token with the cache, mean over the new tokens of a round
    …_tokens_per_second         tokens of all sequences / those seconds
    peak_memory_bytes           weights + the most that a round's tensors take beside them, counted by torch's allocator
    kv_cache_bytes              tensors of the cache after prompt and new tokens
    macs_per_token              FLOPs / 2 of reading one prompt by torch's FlopCounterMode, per token, rotary angles left
                                out: what `report/cost.py` computes from shapes
    padded_macs_per_token       the same with the sizes of every linear rounded up to whole tiles of a GPU's kernel

Times are medians over rounds; `efficiency_spread` has their quartiles and, of two models, those of each round's ratio.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import Cache, PreTrainedModel

from hgsp_core.checkpoint.modeling_hgsp import CACHE
from hgsp_core.engine.parallel import processes
from hgsp_core.evaluate.contract import EvaluateJob, PairEvaluator
from hgsp_core.evaluate.efficiency_params import EfficiencyParams

#: rows and columns that a matrix kernel of a GPU computes together, at the least: 1,003 channels cost what 1,024 cost
TILE = 64
#: what a round times
TIMED = ("prefill_seconds", "decode_seconds_per_token")


@dataclass(frozen=True)
class Round:
    """One prompt read and continued: seconds of the prompt and of each new token, and bytes of the cache at the end."""

    prefill_seconds: float
    decode_seconds_per_token: float
    cache_bytes: int


class Efficiency(PairEvaluator[EfficiencyParams]):
    """Measures time, memory, KV cache and multiply-accumulates of the running model.

    Cost: `warmup` + `rounds` prompts for each batch size, each continued by `new_tokens` tokens.
    When: the gain in latency, throughput or memory matters. Needs resident weights.
    Notes: It times prefill and decode. The dense and the pruned model run in turns, so that other load on the machine
        affects both alike.
    """

    whole_model = True
    measures = ("efficiency",)

    def __call__(self, job: EvaluateJob) -> dict[str, Any]:
        return self._of([job])[0]

    def compare(self, dense: EvaluateJob, pruned: EvaluateJob) -> tuple[dict[str, Any], dict[str, Any]]:
        before, after = self._of([dense, pruned])
        return before, after

    @torch.no_grad()
    def _of(self, jobs: Sequence[EvaluateJob]) -> list[dict[str, Any]]:
        p, models = self.params, [job.loaded for job in jobs]
        results = [self._once(model, in_turns=len(models) > 1) for model in models]
        steps = count(1)
        total = len(p.batch_sizes) * (p.warmup + p.rounds)
        for batch in p.batch_sizes:
            ids = np.random.default_rng(jobs[0].seed).integers(_vocabulary(models[0]), size=(batch, p.prompt_tokens))
            prompts = [torch.from_numpy(ids).to(model.device) for model in models]
            rounds: list[list[Round]] = [[] for _ in models]
            for turn in range(p.warmup + p.rounds):
                for i in sorted(range(len(models)), reverse=turn % 2 == 1):  # the first one changes each round
                    rounds[i].append(one_round(models[i], prompts[i], p.new_tokens))
                jobs[-1].progress(next(steps), total)
            counted = [of_model[p.warmup :] for of_model in rounds]
            for i, model in enumerate(models):
                memory = weight_bytes(model) + working_bytes(model, prompts[i], p.new_tokens)
                found = {
                    **summary(counted[i], ids.size, batch),
                    "peak_memory_bytes": memory,
                    "efficiency_spread": spread(counted[i], counted[0] if i else None),
                }
                for metric, value in found.items():
                    results[i].setdefault(metric, {})[f"batch {batch}"] = value
        return results

    def _once(self, model: PreTrainedModel, in_turns: bool) -> dict[str, Any]:
        """The metrics that do not depend on the batch, and the protocol."""
        tokens = self.params.prompt_tokens
        protocol = {
            **self.params.model_dump(mode="json"),
            "in_turns": in_turns,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type,
            "threads": torch.get_num_threads(),
            "processes": processes(),
            "attention": model.config._attn_implementation,
        }
        macs = macs_per_token(model, tokens)
        return {
            "macs_per_token": {f"prompt of {tokens}": macs},
            "padded_macs_per_token": {f"prompt of {tokens}": macs + padding_per_token(model)},
            "efficiency_protocol": protocol,
        }


def one_round(model: PreTrainedModel, prompt: Tensor, new_tokens: int) -> Round:
    """Read the prompt [batch, tokens], then generate greedily, never stopping early."""
    start = _now(model.device)
    output = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
    read = _now(model.device)
    for _ in range(new_tokens):
        token = output.logits[:, -1:].argmax(-1)
        output = model(input_ids=token, **{CACHE: getattr(output, CACHE)}, use_cache=True, logits_to_keep=1)
    decoded = _now(model.device)
    return Round(read - start, (decoded - read) / new_tokens, cache_bytes(getattr(output, CACHE)))


def summary(rounds: Sequence[Round], prompt_tokens: int, batch: int) -> dict[str, float]:
    """Medians over rounds; `prompt_tokens` of the whole batch."""
    prefill, decode = (median(getattr(r, timed) for r in rounds) for timed in TIMED)
    return {
        "prefill_seconds": prefill,
        "prefill_tokens_per_second": prompt_tokens / prefill,
        "decode_seconds_per_token": decode,
        "decode_tokens_per_second": batch / decode,
        "kv_cache_bytes": rounds[-1].cache_bytes,
    }


def _vocabulary(model: PreTrainedModel) -> int:
    return model.get_input_embeddings().get_parameter("weight").shape[0]


def _now(device: torch.device) -> float:
    """Seconds, after the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def spread(rounds: Sequence[Round], dense: Sequence[Round] | None) -> dict[str, dict[str, float]]:
    """Minimum, quartiles and maximum over rounds of what is timed, and of its ratio to the dense model's same round."""
    found = {}
    for timed in TIMED:
        values = [getattr(r, timed) for r in rounds]
        found[timed] = _quartiles(values)
        if dense is not None:
            found[f"ratio of {timed}"] = _quartiles([v / getattr(r, timed) for v, r in zip(values, dense, strict=True)])
    return found


def _quartiles(values: Sequence[float]) -> dict[str, float]:
    names = ("min", "q1", "median", "q3", "max")
    return dict(zip(names, np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist(), strict=True))


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of parameters and buffers, tied ones once."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def cache_bytes(cache: Cache) -> int:
    """Bytes of the keys and values that a transformers cache holds."""
    tensors = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def working_bytes(model: PreTrainedModel, prompt: Tensor, new_tokens: int) -> int:
    """Peak bytes of tensors during a round, without those from before it."""
    device = model.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        one_round(model, prompt, new_tokens)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would tell on stderr that it starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        one_round(model, prompt, new_tokens)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    steps = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    return int(max(np.cumsum([taken for _, taken in steps]), default=0))  # what is given back counts below zero


def macs_per_token(model: PreTrainedModel, tokens: int) -> int:
    """Multiply-accumulates of reading `tokens` at once, per token.

    Attention and experts are run as plain matrix products, which the counter knows on every device; the result is the same.
    """
    prompt = torch.arange(tokens, device=model.device)[None] % _vocabulary(model)
    with _eager(model), FlopCounterMode(display=False) as counter:
        model(input_ids=prompt, use_cache=False)
    flops = {module: sum(operations.values()) for module, operations in counter.get_flop_counts().items()}
    angles = sum(count for module, count in flops.items() if module.endswith("rotary_emb"))
    return (flops["Global"] - angles) // 2 // tokens


def padding_per_token(model: nn.Module) -> int:
    """Multiply-accumulates per token that a kernel adds where it rounds the sizes of the linears up to whole tiles."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return sum(_tiled(w.out_features) * _tiled(w.in_features) - w.out_features * w.in_features for w in linears)


def _tiled(size: int) -> int:
    return -(-size // TILE) * TILE


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    attention, experts = model.config._attn_implementation, model.config._experts_implementation
    routed = any("num_experts" in vars(module) for module in model.modules())
    model.set_attn_implementation("eager")
    if routed:
        model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(attention)
        if routed:
            model.set_experts_implementation(experts)
