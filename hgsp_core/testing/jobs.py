"""A job of each kind for a method to be tried on: made fresh each time, from a tiny model with GQA and a bias on every linear."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from hgsp_core import (
    AllocateJob,
    Allocator,
    BlockJob,
    Collector,
    DatasetJob,
    HeldOut,
    LayerStatistics,
    Moments,
    NormalizeJob,
    PriorJob,
    Priors,
    ReadJob,
    Reconstructor,
    ScoreJob,
    Scorer,
    Scores,
    Statistics,
)
from hgsp_core.artifacts.surgery import positions
from hgsp_core.engine.run import run_sweep
from hgsp_core.engine.weights import Resident
from hgsp_core.testing.check import fail
from hgsp_core.testing.model import VOCABULARY, sample_layout, sample_model

SEED = 5
#: samples and tokens of the calibration set
CALIBRATION = (6, 10)


def score_job(scorer: Scorer[Any], experts: bool) -> ScoreJob:
    """Of the sample, or of that with experts."""
    return ScoreJob(sample_layout(experts), statistics(scorer.collectors, experts), SEED)


def allocate_job(allocator: Allocator[Any], experts: bool = False) -> AllocateJob:
    return AllocateJob(sample_layout(experts), scores(experts), priors(experts) if allocator.needs_priors else None)


def block_job(reconstructor: Reconstructor[Any]) -> BlockJob:
    """The MLP of a layer, half of it to go, with moments of random inputs that depend on each other a little."""
    block = sample_layout().layers[1].blocks["mlp"]
    (writer,) = (s for s in block.slices if s.dim == 1)
    model = sample_model()
    weight, bias = model.get_parameter(writer.weight).detach(), model.get_parameter(writer.bias).detach()
    (x, y), (other, wanted) = (_tokens(seed, weight, bias) for seed in (0, 1))
    fit = Moments(len(x), x.sum(0), x.T @ x, dict.fromkeys(reconstructor.targets, y.T @ x))
    kept = tuple(range(0, block.units, 2))
    columns = positions(kept, writer.width)
    return BlockJob(block, kept, columns, writer, weight.clone(), bias.clone(), fit, HeldOut([other], [wanted]))


def read_jobs() -> list[ReadJob]:
    """Of a block's readers, and of the head: what they read is off by noise and a factor."""
    block = sample_layout().layers[1].blocks["mlp"]
    hidden = block.writer.shape[0]
    (x, y), (other, wanted) = _drifted(0, hidden), _drifted(1, hidden)
    fit = Moments(len(x), x.sum(0), x.T @ x, {"dense": y.T @ x})
    return [ReadJob(place, fit, HeldOut([other], [wanted])) for place in (block, None)]


def _drifted(seed: int, hidden: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What is read [tokens, hidden], and what was in the dense model."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(400, hidden, generator=generator)
    return 0.8 * y + 0.1 * torch.randn(400, hidden, generator=generator), y


JOBS: Mapping[str, Callable[[Any], Any]] = {
    "scorer": lambda scorer: score_job(scorer, scorer.only_experts),
    "prior": lambda prior: PriorJob(sample_layout(), statistics(prior.collectors)),
    "normalizer": lambda normalizer: NormalizeJob(sample_layout(), scores()),
    "allocator": allocate_job,
    "reconstructor": block_job,
    "dataset": lambda dataset: DatasetJob("calibration"),
}


def statistics(collectors: Iterable[Collector], experts: bool = False) -> Statistics:
    """What a real sweep measures for these collectors, and nothing else: another key raises an AssertionError."""
    measured = {c.key: _measured(c, experts) for c in collectors}
    values = {key: [{n: a.copy() for n, a in layer.items()} for layer in layers] for key, layers in measured.items()}
    return Statistics(_Declared(values))


class _Declared(dict[str, Sequence[LayerStatistics]]):
    def __missing__(self, key: str) -> Sequence[LayerStatistics]:
        fail(f"It reads the statistic {key}, which it does not declare: put that collector into `collectors`.")


@cache
def _measured(collector: Collector, experts: bool) -> tuple[Mapping[str, np.ndarray], ...]:
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, CALIBRATION)
    source = Resident(sample_model(experts), sample_layout(experts))
    return tuple(run_sweep(source, source.layout, tokens, [collector])[collector])


def scores(experts: bool = False) -> Scores:
    """Importances whose scale differs by decades between layers, as gradients' do."""
    generator = np.random.default_rng(0)
    importance: list[dict[str, np.ndarray]] = []
    for layer in sample_layout(experts).layers:
        importance.append({})
        for axis, block in layer.blocks.items():
            units = generator.lognormal(size=block.units) * 10.0**-layer.index
            shares = generator.dirichlet(np.ones(block.heads + 1), size=block.units)  # the first is the whole unit's
            importance[-1] |= {axis: units, f"{axis}.heads": units[:, None] * shares[:, 1:]}
    return Scores.of(sample_layout(experts), importance)


def priors(experts: bool = False) -> Priors:
    generator, layers = np.random.default_rng(1), len(sample_layout(experts).layers)
    axes = [axis.name for axis in sample_layout(experts).architecture.axes]
    return Priors(generator.lognormal(size=layers), {axis: generator.lognormal(size=layers) for axis in axes})


def _tokens(seed: int, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [tokens, in] that depend on each other a little, and the writer's own outputs [tokens, out]."""
    features = weight.shape[1]
    mixing = torch.eye(features) + 0.3 * torch.randn(features, features, generator=torch.Generator().manual_seed(9))
    x = torch.randn(400, features, generator=torch.Generator().manual_seed(seed)) @ mixing
    return x, x @ weight.T + bias
