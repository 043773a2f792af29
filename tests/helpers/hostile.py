"""Model directories that bring code: whatever of it is run leaves its name in a file, from whichever process."""

import json
import pickle
import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.helpers.command import MODEL

#: what a directory may name and must not get run
MODEL_CLASS = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"}
CONFIG_CLASS = {"AutoConfig": "evil.EvilConfig", "AutoTokenizer": ["evil.EvilTokenizer", None]}


class Trap:
    """Code that says it was run."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return exec, (self.source,)

    @property
    def source(self) -> str:
        return f"open({str(self.path)!r}, 'a').write('run\\n')\n"

    def sprung(self) -> bool:
        return self.path.exists()


def small_model(folder: Path) -> Path:
    """A random model of two layers with the demo model's tokenizer."""
    torch.manual_seed(0)
    vocabulary = json.loads((MODEL / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, folder)
    return folder


def set_keys(path: Path, **keys) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def add_code(folder: Path, trap: Trap) -> None:
    """Python and pickles beside the weights, as many as transformers and peft look for by name."""
    for name in ("evil.py", "modeling_evil.py", "tokenizer_evil.py", "LICENSE.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(
            trap.source + "class EvilConfig: pass\nEvilModel = EvilTokenizer = generate = EvilConfig\n"
        )
    for name in ("pytorch_model.bin", "training_args.bin", "tokenizer.pkl", "vocab.pt"):
        (folder / name).write_bytes(pickle.dumps(trap))
