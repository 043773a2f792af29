"""Iterative pruning: each step scores the model that the step before leaves."""

import numpy as np
import pytest
import torch

from hgsp_core.artifacts import Plan
from hgsp_core.artifacts.surgery import mask_tensors
from hgsp_core.engine.collectors import ResidualCosine, TaylorAbs, WandaAbs
from hgsp_core.engine.run import run_sweep
from hgsp_core.engine.weights import Masked, Resident
from hgsp_core.errors import HgspError
from hgsp_core.pipeline import forecast
from hgsp_core.plugin import registry
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.runtime.store import Store
from tests.helpers.architectures import CONFIGS, layout_of, tiny_model
from tests.helpers.command import MODEL

TEXT = f"model: {{path: {MODEL}}}\ncalibrate: {{dataset: pydoc, samples: 8, seq_len: 32}}\noutput: nowhere\n"


def decide(*arguments):
    return forecast(*arguments).decision


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_statistics_of_masked_weights_are_those_of_a_model_with_these_weights(kind):
    model = tiny_model(kind)
    layout = layout_of(model)
    kept = {(b.layer, b.axis.name): range(0, b.units, 2) for b in layout.blocks()} | {(1, "mlp"): ()}
    plan = Plan.of(layout, kept, 0)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (5, 9))
    collectors = [TaylorAbs(), WandaAbs(), ResidualCosine()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = run_sweep(Masked(Resident(model, layout), plan), layout, tokens, collectors, 2)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())  # put back
    model.load_state_dict(dict(mask_tensors(model.state_dict().items(), layout, plan)))
    expected = run_sweep(Resident(model, layout), layout, tokens, collectors, 2)
    for collector in collectors:
        for a, b in zip(found[collector], expected[collector], strict=True):
            for name in a:
                np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(
    ("allocate", "more"), [("hgsp", ""), ("hgsp", "query_heads: true"), ("uniform", ""), ("depth", ""), ("global", "")]
)
def test_steps_are_nested_exact_and_score_anew(allocate, more, tmp_path):
    def plan(steps, ratio):
        settings = [
            f"allocate={{use: {allocate}, with: {{{more}}}}}",
            f"allocate.with.ratio={ratio}",
            f"iterative_steps={steps}",
        ]
        return decide(parse_recipe(TEXT, "r", settings), LogMonitor(), Store(tmp_path / "store"))

    once, twice, half = plan(1, 0.4), plan(2, 0.4), plan(1, 0.2)
    layout = twice.source.layout
    assert twice.plan.within(half.plan)
    assert twice.plan.removed(layout) <= 0.4 * layout.parameters
    if allocate in ("global", "hgsp"):
        assert twice.plan != once.plan
        assert 0.4 * layout.parameters - twice.plan.removed(layout) < 3 * 192 + 1


def test_an_allocator_without_a_ratio_cannot_grow_it(tmp_path, monkeypatch):
    from hgsp_core.plugin.method import Method

    entry = registry.Entry("allocator", "test", Method("fixed", "x:y"))
    monkeypatch.setattr(registry.installed(), "entries", [*registry.installed().entries, entry])
    with pytest.raises(HgspError, match="no parameter 'ratio'"):
        decide(parse_recipe(TEXT, "r", ["allocate.use=fixed", "iterative_steps=2"]), LogMonitor(), Store(tmp_path))
