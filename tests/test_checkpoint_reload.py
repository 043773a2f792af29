"""A pruned checkpoint loads in a process that cannot import hgsp_core, and computes exactly the same."""

import subprocess
import sys

import pytest
import torch
from checkpoints import PLANS, logits, prune, tokens
from safetensors.torch import load_file, save_file

from hgsp_core.checkpoint.load import load_model
from hgsp_core.checkpoint.verify import verify_reload
from hgsp_core.errors import CheckpointError

#: a user's script; -I hides the working directory and PYTHONPATH, the finder hides an installed hgsp_core
STRANGER = """
import sys

class Hidden:
    def find_spec(self, name, path, target=None):
        if name.split(".")[0].startswith("hgsp"):
            raise ImportError(name)

sys.meta_path.insert(0, Hidden())
try:
    import hgsp_core
except ImportError:
    pass
else:
    raise SystemExit("hgsp_core is not hidden")

import os, torch
os.environ["HF_MODULES_CACHE"] = sys.argv[1] + "/modules"
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

torch.set_num_threads(int(sys.argv[2]))
ids = load_file(sys.argv[1] + "/ids.safetensors")["ids"]
results = {}
for directory in sys.argv[3:]:
    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)
    with torch.no_grad():
        results[directory] = model(ids, use_cache=False).logits
        hidden = AutoModel.from_pretrained(directory, trust_remote_code=True)(ids).last_hidden_state
        assert torch.equal(model.lm_head(hidden), model(ids).logits)
    model.save_pretrained(directory + "-again")
    again = AutoModelForCausalLM.from_pretrained(directory + "-again", trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(again(ids, use_cache=False).logits, results[directory])
    results[directory + "/generated"] = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
assert not [name for name in sys.modules if name.startswith("hgsp")]
save_file(results, sys.argv[1] + "/results.safetensors")
"""


def test_reloads_bit_for_bit_where_hgsp_core_cannot_be_imported(tmp_path):
    kinds = ["llama-biases", "llama-tied", "mistral-window", "qwen2-window", "qwen3"]
    made = {kind: prune(tmp_path / kind, kind, PLANS["everything"], max_shard_size=30_000) for kind in kinds}
    save_file({"ids": tokens()}, tmp_path / "ids.safetensors")
    directories = [pruned.directory for pruned in made.values()]
    command = [sys.executable, "-I", "-c", STRANGER, tmp_path, torch.get_num_threads(), *directories]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    results = load_file(tmp_path / "results.safetensors")
    for pruned in made.values():
        model, _ = load_model(pruned.directory)
        assert torch.equal(results[str(pruned.directory)], logits(model))
        greedy = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        assert torch.equal(results[f"{pruned.directory}/generated"], pruned.reference.generate(tokens(), **greedy))


def test_verification_catches_one_changed_weight(tmp_path):
    """That it passes what was written right, every test of an export shows."""
    directory = prune(tmp_path, "llama", PLANS["sizes differ"]).directory
    model, _ = load_model(directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][0, 0] += 1e-2
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="its logits differ by"):
        verify_reload(directory, tokens(), logits(model))


def test_verification_says_why_a_checkpoint_does_not_load(tmp_path):
    directory = prune(tmp_path, "llama", PLANS["sizes differ"]).directory
    reference = logits(load_model(directory)[0])
    (directory / "modeling_hgsp.py").unlink()
    with pytest.raises(CheckpointError, match="(?s)a fresh process cannot load it:.*modeling_hgsp.py"):
        verify_reload(directory, tokens(), reference)
