"""Random models behind config.json files in the form that the hub has them (hub_configs), sizes scaled down."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from tests.helpers.command import MODEL

CONFIGS = sorted(path.stem for path in (Path(__file__).parent / "hub_configs").glob("*.json"))


def write_hub_model(name: str, directory: Path, **changes) -> Path:
    """config.json to the letter (`changes` aside), weights in the type that it names, the demo model's tokenizer."""
    directory.mkdir(parents=True)
    config = json.loads((Path(__file__).parent / "hub_configs" / f"{name}.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    torch.manual_seed(0)
    from transformers import AutoConfig

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory, trust_remote_code=False))
    tensors = {}
    for key, parameter in model.named_parameters():  # tied ones once, as the hub has them
        value = parameter + 0.2 * torch.randn_like(parameter) if parameter.dim() == 1 else 4 * parameter
        tensors[key] = value.detach().to(getattr(torch, config.get("torch_dtype") or config["dtype"]))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / file, directory)
    return directory
