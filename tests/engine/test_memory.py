"""A streamed sweep of a checkpoint that does not fit in memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from hgsp_core.engine.collectors import ResidualCosine, TaylorAbs
from hgsp_core.engine.run import run_sweep
from hgsp_core.engine.weights import Resident
from tests.helpers.architectures import CONFIGS, layout_of
from tests.helpers.command import ROOT

#: what a process may allocate beyond what it has once torch is loaded, and what its checkpoint holds
LIMIT, LAYERS = 240 * 2**20, 32

#: run with the limit as RLIMIT_AS: loads the model whole, or sweeps it streamed
UNDER_LIMIT = """
import resource, sys
import numpy as np, psutil, torch
import torch.utils.flop_counter, transformers.models.llama.modeling_llama, accelerate, safetensors.torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from tests.helpers.architectures import CONFIGS, LLAMA
from hgsp_core.checkpoint.read import tensor_shapes
from hgsp_core.model.layout import read_layout
from hgsp_core.engine.run import run_sweep
from hgsp_core.engine.weights import Streamed
from hgsp_core.engine.collectors import ResidualCosine, TaylorAbs

how, directory, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
config = LlamaConfig.from_pretrained(directory)
layout = read_layout(LLAMA, config.to_dict(), tensor_shapes(directory))
AutoModelForCausalLM.from_config(CONFIGS["llama"]())  # everything is imported before the limit is set
resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + limit,) * 2)
if how == "whole":
    LlamaForCausalLM.from_pretrained(directory)
tokens = np.arange(2 * 16).reshape(2, 16)
found = run_sweep(Streamed(directory, layout, torch.bfloat16), layout, tokens, [TaylorAbs(), ResidualCosine()])
np.savez(f"{directory}/found.npz", *[layer["mlp"] for layer in found[TaylorAbs()]])
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A bf16 checkpoint of 750 MB, a file a layer; its matrices are cut from one pool of random numbers."""
    directory = tmp_path_factory.mktemp("large")
    config = CONFIGS["llama"](
        hidden_size=1024, intermediate_size=3072, num_hidden_layers=LAYERS, num_attention_heads=16, dtype="bfloat16"
    )
    config.save_pretrained(directory)
    pool = 0.03 * torch.randn(3072 * 1024 + 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in LlamaForCausalLM(config).named_parameters()}
    files = {name: f"{name.split('.')[2] if '.layers.' in name else 'outside'}.safetensors" for name in shapes}
    for file in set(files.values()):
        names = [name for name in shapes if files[name] == file]
        cuts = (pool[i : i + shapes[name].numel()].view(shapes[name]).clone() for i, name in enumerate(names))
        save_file(dict(zip(names, cuts, strict=True)), directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return directory


def under_limit(how: str, directory: Path) -> subprocess.CompletedProcess:
    # as malloc does by itself with tensors of 32 MiB and more: keep them out of the heap, which counts holes as memory
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | malloc
    command = [sys.executable, "-c", UNDER_LIMIT, how, str(directory), str(LIMIT)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_a_checkpoint_larger_than_memory_is_swept_as_if_it_were_loaded(checkpoint):
    size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    assert size > 2.5 * LIMIT
    assert under_limit("whole", checkpoint).returncode != 0
    done = under_limit("streamed", checkpoint)
    assert done.returncode == 0, done.stderr[-2000:]

    model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    tokens = np.arange(2 * 16).reshape(2, 16)
    expected = run_sweep(Resident(model, layout_of(model)), layout_of(model), tokens, [TaylorAbs(), ResidualCosine()])
    found = np.load(checkpoint / "found.npz")
    for layer, array in zip(expected[TaylorAbs()], found.values(), strict=True):
        np.testing.assert_array_equal(layer["mlp"], array)
