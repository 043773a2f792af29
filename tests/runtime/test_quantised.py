"""Models with quantised weights are refused with the line that converts them, and that line works."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, GptOssConfig, LlamaConfig, Mxfp4Config

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.runtime.recipe import ModelPart
from hgsp_core.runtime.source import open_model
from hgsp_core.testing.model import random_model

BLOCK = 32
SIZES = dict(vocab_size=80, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)
NO_IDS = dict(pad_token_id=None, bos_token_id=None, eos_token_id=None)


def fp8(tensors):
    """Weights as fp8 with a scale for each block."""
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        scale = tensors[name].abs().max() / 400
        rows, columns = (-(-size // BLOCK) for size in tensors[name].shape)
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale.expand(rows, columns).contiguous()
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}


def mxfp4(tensors):
    """Experts as two 4-bit numbers a byte, with a scale for each 32 of them; their values are arbitrary."""
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, columns, rows = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (experts, rows, columns // 32, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.full((experts, rows, columns // 32), 120, dtype=torch.uint8)
    return {"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens", "lm_head"]}


def write(config, quantise, directory):
    """A quantised model; returns the tensors before."""
    random_model(config).save_pretrained(directory)
    tensors = load_file(directory / "model.safetensors")
    before = dict(tensors)
    written = json.loads((directory / "config.json").read_text()) | {"quantization_config": quantise(tensors)}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(written))
    return before


def follow(message, tmp_path):
    """Run the line that the message gives; the tensors that it writes."""
    line = re.search(r"convert them: (.*\))\. Save", message)[1].replace("NEW_DIRECTORY", str(tmp_path / "new"))
    exec(line, {each.__name__: each for each in (AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config)})
    return load_file(tmp_path / "new" / "model.safetensors")


def test_a_model_in_fp8_is_pruned_once_it_was_converted_as_the_message_says(tmp_path):
    before = write(LlamaConfig(**SIZES, intermediate_size=96), fp8, tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"stores quantised weights \(fp8\), which cannot be pruned") as refused:
        open_model(ModelPart(path=str(tmp_path / "model")))
    after = follow(str(refused.value), tmp_path)
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        torch.testing.assert_close(tensor.float(), before[name], rtol=0.1, atol=0.02 * before[name].abs().max().item())
    assert open_model(ModelPart(path=str(tmp_path / "new"))).dtype == "bfloat16"


def test_the_line_for_experts_in_mxfp4_gives_a_model_with_plain_experts(tmp_path):
    experts = dict(num_local_experts=4, num_experts_per_tok=2, head_dim=16, intermediate_size=64)
    before = write(GptOssConfig(**SIZES, **experts, **NO_IDS), mxfp4, tmp_path / "model")
    message = str(CheckpointError.can_be_dequantised(tmp_path / "model", "mxfp4", "Mxfp4Config"))
    after = follow(message, tmp_path)
    assert {name: tensor.shape for name, tensor in after.items()} == {n: t.shape for n, t in before.items()}
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert "quantization_config" not in json.loads((tmp_path / "new" / "config.json").read_text())
