"""Small sound models and runs, which the campaigns damage. Made once, by the commands themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.architectures import tiny_model

from . import process

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "models" / "pydoc-llama"
#: name -> kind of `tests.helpers.architectures`, more of its config, bytes of a shard, dtype
DENSE: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "llama": ("llama", {}, "5GB", "float32"),
    "llama-sharded": ("llama-biases", {}, "150KB", "float32"),
    "llama-tied": ("llama-tied", {}, "5GB", "bfloat16"),
    "mistral": ("mistral-window", {}, "5GB", "bfloat16"),
    "qwen2": ("qwen2-window", {}, "5GB", "float32"),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}, "100KB", "float32"),
}
#: run -> model, and what its recipe says beside `recipe`
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "layered": ("llama", {"export": [{"use": "huggingface"}, {"use": "gguf"}]}),
    "tied": ("llama-tied", {"allocate": {"use": "hgsp", "with": {"ratio": 0.1}}}),
    "window": ("mistral", {"reconstruct": {"use": "none"}}),
    "uniform": ("qwen2", {"allocate": {"use": "uniform", "with": {"ratio": 0.1}}, "score": {"use": "magnitude"}}),
    "norms": ("qwen3", {"score": {"use": "wanda"}}),
}


@dataclass(frozen=True)
class Material:
    folder: Path

    @property
    def text(self) -> Path:
        return self.folder / "text.txt"

    def dense(self, name: str) -> Path:
        return self.folder / name

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name


def recipe(model: str, output: str = "out", **more: Any) -> dict[str, Any]:
    """A recipe of all stages that takes a second on these models."""
    return {
        "version": 1,
        "model": {"path": model},
        "calibrate": {"dataset": "text.txt", "samples": 8, "seq_len": 16, "batch_size": 4, "seed": 0},
        "score": {"use": "taylor"},
        "prior": {"use": "similarity"},
        "normalize": [{"use": "log"}],
        "allocate": {"use": "hgsp", "with": {"ratio": 0.1}},
        "reconstruct": {"use": "least-squares"},
        "evaluate": [{"use": "perplexity", "with": {"datasets": ["text.txt"], "seq_len": 16, "max_windows": 8}}],
        "export": [],
        "output": output,
        **more,
    }


def make(folder: Path) -> Material:
    """Raises RuntimeError where a sound model does not run: then there is nothing to damage."""
    material = Material(folder)
    folder.mkdir(parents=True)
    pages = (ROOT / "hgsp_core" / "texts" / "pydoc" / "evaluation.txt").read_text(encoding="utf-8")
    material.text.write_text(pages[:12_000], encoding="utf-8")
    _done(process.in_child(lambda: _models(material), folder, folder / "scratch"), "the models")
    (folder / "runs").mkdir()
    for name, (model, more) in RUNS.items():
        written = recipe(str(material.dense(model)), f"runs/{name}", **{"export": [{"use": "huggingface"}], **more})
        written["calibrate"]["dataset"] = str(material.text)
        written["evaluate"][0]["with"]["datasets"] = [str(material.text)]
        (folder / f"{name}.yaml").write_text(json.dumps(written), encoding="utf-8")
        _done(process.hgsp(["run", f"{name}.yaml", "--quiet"], folder, folder / "scratch"), f"the run '{name}'")
    grid = {
        "version": 1,
        "base": f"{folder}/tied.yaml",
        "grid": {"allocate.with.ratio": [0.1]},
        "output": str(folder / "sweep"),
    }
    (folder / "sweep.yaml").write_text(json.dumps(grid), encoding="utf-8")
    return material


def _models(material: Material) -> None:
    import torch
    from transformers import PreTrainedTokenizerFast

    for name, (kind, config, shard, dtype) in DENSE.items():
        model = tiny_model(kind, vocab_size=1024, dtype=getattr(torch, dtype), **config)
        model.save_pretrained(material.dense(name), max_shard_size=shard)
        PreTrainedTokenizerFast.from_pretrained(TOKENIZER).save_pretrained(material.dense(name))


def _done(outcome: process.Outcome, what: str) -> None:
    if outcome.code != 0:
        raise RuntimeError(f"{what}: exit code {outcome.code}\n{outcome.text[-3000:]}")
