"""Bias compensation: exact where inputs are constant, and the pruned model's own means in a real sweep."""

import numpy as np
import torch

from hgsp_core import Params, Plan
from hgsp_core.engine.weights import Resident
from hgsp_core.repair.bias import Bias
from hgsp_core.repair.contract import BlockJob, Moments
from hgsp_core.repair.sequential import repair_blocks
from hgsp_core.testing import jobs
from hgsp_core.testing.model import sample_layout, sample_model

TOKENS = np.random.default_rng(3).integers(0, 61, (8, 9))


def constant_job(bias):
    """The kit's block with the same input for every token."""
    job = jobs.block_job(Bias(Params()))
    x = torch.linspace(-1, 2, job.weight.shape[1]).expand(50, -1)
    moments = Moments(50, x.sum(0), x.T @ x, {})
    return x[0], BlockJob(
        job.block, job.kept, job.columns, job.writer, job.weight, job.bias if bias else None, moments, job.held_out
    )


def test_constant_inputs_are_replaced_exactly():
    x, job = constant_job(bias=True)
    result = Bias(Params())(job)
    stays = torch.zeros_like(x)
    stays[list(job.kept)] = x[list(job.kept)]
    assert torch.allclose(result.weight @ stays + result.bias, job.weight @ x + job.bias, atol=1e-5)
    assert torch.equal(result.weight, job.weight)
    assert result.kept == job.kept
    assert not result.note


def test_a_block_without_a_place_for_the_bias_stays_as_it_is_and_says_so():
    _, job = constant_job(bias=False)
    result = Bias(Params())(job)
    assert result.bias is None
    assert torch.equal(result.weight, job.weight)
    assert "not compensated" in result.note
    assert "down_proj has no bias" in result.note


def test_in_a_sweep_the_bias_gains_the_mean_of_what_goes():
    """The first block of a model sees the dense stream, so its inputs can be taken from the model as it is."""
    layout, model = sample_layout(), sample_model()
    kept = {(b.layer, b.axis.name): range(1, b.units) if b.layer == 0 else range(b.units) for b in layout.blocks()}
    plan = Plan.of(layout, kept, layout.layer_parameters)
    seen = []
    block = layout.layers[0].blocks["attention"]
    hook = model.get_submodule(block.writer.module).register_forward_pre_hook(lambda _, x: seen.append(x[0].double()))
    with torch.no_grad():
        model(torch.from_numpy(TOKENS[:-1]), use_cache=False)  # the last sample is held out
    hook.remove()
    changed = {}
    final = repair_blocks(Resident(model, layout), plan, Bias(Params()), TOKENS, 3, changed.update)
    width = block.writer.width
    weight, bias = (model.get_parameter(name).detach().double() for name in (block.writer.weight, block.writer.bias))
    expected = bias + weight[:, :width] @ seen[0].flatten(0, 1).mean(0)[:width]
    assert torch.allclose(changed[block.writer.bias].double(), expected, atol=1e-4)
    assert not final.notes
