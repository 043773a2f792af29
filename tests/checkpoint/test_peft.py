"""LoRA by peft trains, saves, reloads and merges on a model whose layers differ in size."""

import peft
import pytest
import torch

from hgsp_core.checkpoint.load import load_model
from tests.helpers.checkpoints import PLANS, logits, prune, tokens


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_lora_trains_saves_reloads_and_merges(tmp_path, family):
    directory = prune(tmp_path, family, PLANS["everything"]).directory
    base, _ = load_model(directory)
    before = logits(base)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        losses.append(model(tokens(), labels=tokens()).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]
    trained = logits(model.eval())
    model.save_pretrained(tmp_path / "adapter")

    reloaded = peft.PeftModel.from_pretrained(load_model(directory)[0], tmp_path / "adapter").eval()
    assert torch.equal(logits(reloaded), trained)
    merged = reloaded.merge_and_unload()
    assert {n: p.shape for n, p in merged.named_parameters()} == {
        n: p.shape for n, p in load_model(directory)[0].named_parameters()
    }
    torch.testing.assert_close(logits(merged), trained, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(trained, before, atol=1e-2)
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(load_model(tmp_path / "merged")[0]), logits(merged))
