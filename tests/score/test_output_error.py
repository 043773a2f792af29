"""`output` and `obs` against the definition: errors of the block's output, with numpy and plain least squares."""

import numpy as np
import pytest
import torch

from hgsp_core.engine.collectors import OutputError
from hgsp_core.engine.run import run_sweep
from hgsp_core.engine.weights import Resident
from hgsp_core.testing.model import sample_layout, sample_model

LAYOUT = sample_layout()
TOKENS = np.random.default_rng(1).integers(0, 61, (20, 12))


def inputs_of(block):
    seen = []
    module = sample_model().get_submodule(block.writer.module)
    hook = module.register_forward_pre_hook(lambda m, a: seen.append(a[0].flatten(0, 1).double().numpy()))
    with torch.no_grad():
        sample_model()(torch.from_numpy(TOKENS), use_cache=False)
    hook.remove()
    return seen[0], module.weight.detach().double().numpy()


def columns_of(part, width):
    return np.arange(part * width, (part + 1) * width)


@pytest.mark.parametrize("name", ["attention", "attention.heads", "mlp"])
def test_output_error_is_what_the_block_loses_without_the_unit(name):
    block = LAYOUT.layers[1].blocks[name.partition(".")[0]]
    found = run_sweep(Resident(sample_model(), LAYOUT), LAYOUT, TOKENS, [OutputError()], 4)[OutputError()][1][name]
    x, w = inputs_of(block)
    width = block.writer.width // (block.heads if name.endswith("heads") else 1)
    x = x - x.mean(0)
    expected = [((x[:, columns_of(p, width)] @ w[:, columns_of(p, width)].T) ** 2).sum() for p in range(found.size)]
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["attention", "attention.heads", "mlp"])
def test_obs_error_is_what_is_left_after_the_best_refit(name):
    """Least squares with a pull of λ towards the old weights: the least of Σ|(W' − W) x|² + λ|W' − W|² with W'_S = 0."""
    ridge = 0.05
    block = LAYOUT.layers[0].blocks[name.partition(".")[0]]
    found = run_sweep(Resident(sample_model(), LAYOUT), LAYOUT, TOKENS, [OutputError(ridge)], 4)[OutputError(ridge)][0][
        name
    ]
    x, w = inputs_of(block)
    width = block.writer.width // (block.heads if name.endswith("heads") else 1)
    damping = np.sqrt(ridge * (x**2).sum(0).mean())
    stacked = np.concatenate([x, damping * np.eye(x.shape[1])])
    for part in range(found.size):
        gone = columns_of(part, width)
        stays = np.setdiff1d(np.arange(x.shape[1]), gone)
        target = stacked[:, gone] @ w[:, gone].T  # what the columns that stay are to make up for
        change = np.linalg.lstsq(stacked[:, stays], target, rcond=None)[0]
        expected = ((stacked[:, stays] @ change - target) ** 2).sum()
        assert found.ravel()[part] == pytest.approx(expected, rel=1e-3)
