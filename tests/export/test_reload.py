"""The check that every export makes in a fresh process finds what it is there to find."""

import pytest
from safetensors.torch import load_file, save_file

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.load import load_model
from hgsp_core.export.reload import verify_reload
from tests.helpers.checkpoints import PLANS, logits, prune, tokens


def test_verification_catches_one_changed_weight(tmp_path):
    """That it passes what was written right, every test of an export shows."""
    directory = prune(tmp_path, "llama", PLANS["sizes differ"]).directory
    model, _ = load_model(directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][0, 0] += 1e-2
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="its logits after reloading differ by"):
        verify_reload(directory, tokens(), logits(model))


def test_verification_says_why_a_checkpoint_does_not_load(tmp_path):
    directory = prune(tmp_path, "llama", PLANS["sizes differ"]).directory
    reference = logits(load_model(directory)[0])
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"(?s)a fresh process cannot load it:.*model.safetensors"):
        verify_reload(directory, tokens(), reference)
