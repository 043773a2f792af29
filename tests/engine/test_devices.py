"""What a GPU asks of sweep, plan and repair, seen without one (`tests/helpers/pretend.py`)."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hgsp_core.artifacts import Plan
from hgsp_core.engine.collectors import (
    Collector,
    Depth,
    GradientScale,
    Gram,
    InputMoments,
    InputNorm,
    OutputError,
    OutputNorm,
    RemovalLoss,
    ResidualCosine,
    TaylorAbs,
    TaylorCurvature,
    WandaAbs,
    WeightAbs,
    WeightSquare,
)
from hgsp_core.engine.curvature import RemovalCurvature
from hgsp_core.engine.run import run_sweep
from hgsp_core.engine.weights import Masked, Resident, Streamed
from hgsp_core.plugin.method import Params
from hgsp_core.repair.bias import Bias
from hgsp_core.repair.least_squares import LeastSquares
from hgsp_core.repair.least_squares_params import LeastSquaresParams
from hgsp_core.repair.ridge import Ridge
from hgsp_core.repair.sequential import repair_blocks
from tests.helpers.architectures import layout_of, tiny_model
from tests.helpers.pretend import gpu

BATCH, SEQ_LEN = 2, 11
COLLECTORS = {
    "weights": [WeightAbs(), WeightSquare()],
    "forward": [Gram(), InputMoments(), InputNorm(), OutputNorm(), ResidualCosine(), WandaAbs()],
    "output": [OutputError(), OutputError(0.01)],
    "taylor": [TaylorAbs(), TaylorCurvature(), GradientScale()],
    "curvature": [RemovalCurvature(), WandaAbs()],
    "removal": [RemovalLoss(samples=4)],
}
REPAIRS = {"least-squares": LeastSquares(LeastSquaresParams()), "bias": Bias(Params())}


def tokens(samples):
    return np.random.default_rng(0).integers(0, 97, (samples, SEQ_LEN))


def source_of(kind, model, layout, folder, device):
    if kind == "streamed":
        model.save_pretrained(folder, max_shard_size="40KB")
        return Streamed(folder, layout, model.dtype, device)
    resident = Resident(model.to(device), layout)
    return Masked(resident, every_second(layout)) if kind == "masked" else resident


def every_second(layout):
    kept = {(b.layer, b.axis.name): range(0, b.units, 2) for b in layout.blocks()}
    return Plan.of(layout, kept | {(1, "attention"): ()}, 0)


def swept(kind, collectors, samples, folder, device, memory="device"):
    model = tiny_model("llama-biases")
    source = source_of(kind, model, layout_of(model), folder, device)
    return run_sweep(source, source.layout, tokens(samples), collectors, BATCH, memory=memory)


def repaired(kind, reconstructor, samples, folder, device):
    model = tiny_model("llama-biases")
    source, changed = source_of(kind, model, layout_of(model), folder, device), {}
    plan = repair_blocks(source, every_second(source.layout), reconstructor, tokens(samples), BATCH, changed.update)
    return plan, changed


def same(found, expected, collectors):
    """But for rounding: attention is computed in another order."""
    for collector in collectors:
        for own, other in zip(found[collector], expected[collector], strict=True):
            assert own.keys() == other.keys()
            for name in own:
                np.testing.assert_allclose(own[name], other[name], rtol=1e-3, atol=1e-6)


def waits(work, samples, folder):
    """Without those of transformers, which asks once a forward pass whether its samples are packed."""
    with gpu() as device:
        work(samples, folder, "cuda:0")
    return Counter({place: n for place, n in device.waits.items() if place[1].startswith("hgsp_core")})


@pytest.mark.parametrize("kind", ["resident", "streamed", "masked"])
@pytest.mark.parametrize("collectors", COLLECTORS.values(), ids=COLLECTORS)
def test_a_sweep_on_a_gpu_gives_what_one_on_the_cpu_gives(kind, collectors, tmp_path):
    expected = swept(kind, collectors, 5, tmp_path / "cpu", "cpu")
    with gpu():
        found = swept(kind, collectors, 5, tmp_path / "gpu", "cuda:0")
    same(found, expected, collectors)


@pytest.mark.parametrize("memory", ["graphs", "cpu", "disk", "auto"])
def test_streams_come_back_to_the_gpu_from_wherever_they_are_kept(memory, tmp_path):
    collectors = [*COLLECTORS["taylor"], *COLLECTORS["curvature"]]
    with gpu():
        found = swept("resident", collectors, 4, tmp_path, "cuda:0", memory)
    expected = swept("resident", collectors, 4, tmp_path, "cpu")
    same(found, expected, collectors)


@pytest.mark.parametrize("kind", ["resident", "streamed"])
@pytest.mark.parametrize("reconstructor", REPAIRS.values(), ids=REPAIRS)
def test_a_repair_on_a_gpu_is_that_on_the_cpu(kind, reconstructor, tmp_path):
    plan, expected = repaired(kind, reconstructor, 8, tmp_path / "cpu", "cpu")
    with gpu():
        other, found = repaired(kind, reconstructor, 8, tmp_path / "gpu", "cuda:0")
    assert other == plan
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("collectors", COLLECTORS.values(), ids=COLLECTORS)
def test_the_host_waits_for_a_gpu_as_often_for_many_micro_batches_as_for_few(collectors, tmp_path):
    few, many = (waits(lambda *a: swept("resident", collectors, *a), samples, tmp_path) for samples in (4, 16))
    assert many - few == Counter()
    assert sum(few.values()) < 400 * len(collectors)


@pytest.mark.parametrize("reconstructor", REPAIRS.values(), ids=REPAIRS)
def test_a_repair_waits_for_a_gpu_as_often_for_many_micro_batches_as_for_few(reconstructor, tmp_path):
    few, many = (waits(lambda *a: repaired("resident", reconstructor, *a), samples, tmp_path) for samples in (16, 32))
    assert many - few == Counter()


def test_a_fit_to_inputs_that_depend_on_each_other_and_without_a_ridge_is_possible_on_a_gpu():
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    gram, cross = x.T @ x, torch.ones(4, 20) @ x
    with gpu():
        found = Ridge(gram.to("cuda:0"), 0.0).fit(cross.to("cuda:0"), torch.zeros(4, 6).to("cuda:0")).cpu()
    torch.testing.assert_close(found @ gram.double(), cross.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("collectors", COLLECTORS.values(), ids=COLLECTORS)
def test_what_processes_add_up_is_on_the_gpu_where_nccl_can_read_it(collectors, tmp_path, monkeypatch):
    added = []
    monkeypatch.setattr("hgsp_core.engine.sums.add_up", lambda tensors: added.extend(t.device.type for t in tensors))
    with gpu():
        swept("resident", collectors, 4, tmp_path, "cuda:0")
    assert set(added) <= {"cuda"}


@dataclass(frozen=True)
class MetOnTheHost(Collector):
    """A fault: a tensor of the host meets one of the device."""

    depth = Depth.FORWARD

    def observe(self, layer, passage, sums):
        sums.add("layer", passage.after.float() @ torch.ones(passage.after.shape[-1]))

    def reduce(self, layer, sums):
        return {"layer": sums.numpy("layer")}


@dataclass(frozen=True)
class AskedEachTime(Collector):
    """A fault: the host waits for a number in each micro-batch."""

    depth = Depth.FORWARD

    def observe(self, layer, passage, sums):
        sums.add("layer", torch.tensor(float(passage.after.sum())))

    def reduce(self, layer, sums):
        return {"layer": sums.numpy("layer")}


def test_the_pretended_gpu_shows_both_kinds_of_fault(tmp_path):
    with gpu(), pytest.raises(RuntimeError, match=r"same device, but \w+ got"):
        swept("resident", [MetOnTheHost()], 4, tmp_path, "cuda:0")
    with gpu() as few:
        swept("resident", [AskedEachTime()], 4, tmp_path, "cuda:0")
    with gpu() as many:
        swept("resident", [AskedEachTime()], 16, tmp_path, "cuda:0")
    assert many.waits.total() - few.waits.total() > 3 * 6  # layers, micro-batches more
