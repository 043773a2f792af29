"""Directories of models, pruned or not, damaged, for the commands that read them. What ends well must also be right."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from random import Random
from typing import Any

from . import process
from .case import Case
from .material import RUNS, Material, recipe
from .mutate import copied, damaged_files, damaged_json, damaged_tree
from .recipes import finite_json
from .weights import damaged_weights

#: forms of config.json that real checkpoints have, and some that none should
_CONFIG: tuple[dict[str, Any], ...] = (
    {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    {"rope_scaling": {"type": "linear", "factor": 2.0}},
    {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    {"rope_scaling": {"type": "yarn", "factor": 2.0}},
    {"rope_scaling": {"type": "nonsense"}},
    {"rope_scaling": None, "rope_theta": 1e6},
    {"rope_theta": "x"},
    {"rope_parameters": {"rope_type": "yarn"}},
    {"rope_parameters": None},
    {"torch_dtype": "bfloat16"},
    {"torch_dtype": "float16", "dtype": "float32"},
    {"dtype": "int8"},
    {"dtype": "float8_e4m3fn"},
    {"dtype": None},
    {"head_dim": None},
    {"head_dim": 5},
    {"pad_token_id": -1},
    {"pad_token_id": 1024},
    {"bos_token_id": None, "eos_token_id": [0, 5000]},
    {"vocab_size": 1023},
    {"vocab_size": 1025},
    {"num_hidden_layers": 2},
    {"num_hidden_layers": 4},
    {"num_hidden_layers": 0},
    {"num_attention_heads": 4},
    {"num_key_value_heads": 3},
    {"num_key_value_heads": None},
    {"hidden_size": 33},
    {"hidden_act": "nonsense"},
    {"hidden_act": "gelu"},
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": False},
    {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    {"quantization_config": {}},
    {"auto_map": {"AutoConfig": "configuration_x.C", "AutoModelForCausalLM": "modeling_x.M"}},
    {"auto_map": {"AutoConfig": "configuration_x.C"}},
    {"model_type": "gpt2"},
    {"model_type": "hgsp"},
    {"model_type": "mixtral"},
    {"model_type": 5},
    {"architectures": ["LlamaForSequenceClassification"]},
    {"architectures": None},
    {"sliding_window": 4},
    {"sliding_window": None},
    {"sliding_window": 0},
    {"use_sliding_window": True},
    {"layer_types": ["full_attention"]},
    {"layer_types": ["sliding_attention"] * 3},
    {"max_window_layers": 99},
    {"attention_bias": True},
    {"mlp_bias": True},
    {"rms_norm_eps": 0},
    {"max_position_embeddings": 8},
    {"attn_implementation": "flash_attention_2"},
    {"transformers_version": "99.0.0"},
    {"is_encoder_decoder": True},
    {"num_labels": 3, "id2label": {"a": 1}},
)


def dense(case: Case, random: Random, material: Material) -> None:
    """A checkpoint as somebody trained it."""
    name = random.choice(
        ["llama", "llama", "llama-sharded", "llama-sharded", "llama-tied", "mistral", "qwen2", "qwen3"]
    )
    model = copied(material.dense(name), case.input / "model")
    case.said.append(name)
    for _ in range(random.choice([1, 1, 1, 2])):
        case.said.append(_damaged(model, random))
    _used(case, random, material, "model", None)


def pruned(case: Case, random: Random, material: Material) -> None:
    """A checkpoint that a run wrote, of a stock class or of ours."""
    name = random.choice(["layered", "layered", *RUNS])
    sound = material.run(name) / "model"
    model = copied(sound, case.input / "model")
    case.said.append(name)
    if random.random() < 0.3:
        case.said.append(damaged_json(model / "hgsp.json", random))
    elif random.random() < 0.3:
        case.said.append(_layered_config(model / "config.json", random))
    else:
        case.said.append(_damaged(model, random))
    _used(case, random, material, "model", sound)


def _damaged(model: Path, random: Random) -> str:
    kind = random.random()
    shards = [p for p in sorted(model.glob("*.safetensors")) if p.is_file()]
    config, index = model / "config.json", model / "model.safetensors.index.json"
    others = [p for p in sorted(model.glob("*.json")) if p.is_file() and p not in (config, index)]
    try:
        if kind < 0.2 and config.is_file():
            changes = random.choice(_CONFIG)
            config.write_text(json.dumps({**json.loads(config.read_text()), **changes}), encoding="utf-8")
            return f"config.json: {changes}"
        if kind < 0.4 and config.is_file():
            return damaged_json(config, random)
        if kind < 0.65 and shards:
            return damaged_weights(random.choice(shards), random)
        if kind < 0.72 and index.is_file():
            return damaged_json(index, random)
        if kind < 0.85 and others:
            return damaged_json(random.choice(others), random)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        pass  # the damage before this one left nothing of the form
    return damaged_files(model, random)


def _layered_config(path: Path, random: Random) -> str:
    """Damage in what only our own checkpoints have."""
    config = json.loads(path.read_text(encoding="utf-8"))
    keys = [
        key
        for key in ("per_layer_config", "base_model_type", "auto_map", "model_type", "architectures")
        if key in config
    ]
    keys += [key for key in config if "layer" in key or "head" in key]
    key = random.choice(keys or list(config))
    tree, said = damaged_tree({key: config[key]}, random, random.choice([1, 1, 2]))
    config.pop(key)
    path.write_text(json.dumps({**config, **(tree if isinstance(tree, dict) else {key: tree})}), encoding="utf-8")
    return f"config.json: {said}"


def _used(case: Case, random: Random, material: Material, model: str, sound: Path | None) -> None:
    """Give the directory to a command, and check what it made of it."""
    (case.input / "text.txt").write_bytes(material.text.read_bytes())
    command = random.choice(
        ["plan"] * 2
        + ["run"] * 3
        + ["eval"] * 4
        + ["finetune"] * 2
        + ["huggingface"] * 2
        + ["gguf"] * 2
        + ["verify"] * (5 if sound else 2)
    )
    if command in ("plan", "run"):
        tree = recipe(model, export=[{"use": random.choice(["huggingface", "gguf"])}] if random.random() < 0.3 else [])
        tree["model"]["weights"] = random.choice(["auto", "streamed"])
        tree["score"] = {"use": random.choice(["magnitude", "taylor", "wanda"])}
        tree["reconstruct"] = {"use": random.choice(["none", "least-squares"])}
        (case.input / "recipe.yaml").write_text(json.dumps(tree), encoding="utf-8")
    if command == "plan":
        case.run("plan", "recipe.yaml", "--quiet")
    elif command == "run":
        if case.run("run", "recipe.yaml", "--quiet", results=("out",)).code == 0:
            finite_json(case, case.input / "out" / "report.json")
            report = json.loads((case.input / "out" / "report.json").read_text(encoding="utf-8"))
            _agrees(case, case.input / model, report["before"]["perplexity"]["text.txt"], "run")
            if (made := case.input / "out" / "model").is_dir():
                _agrees(case, made, report["after"]["perplexity"]["text.txt"], "run's result")
    elif command == "eval":
        measured = case.run(
            "eval", model, "--dataset", "text.txt", "--seq_len", "16", "--max_samples", "8", "--json", "--quiet"
        )
        if measured.code == 0:
            _agrees(case, case.input / model, json.loads(measured.out)["after"]["perplexity"]["text.txt"], "eval")
    elif command == "finetune":
        small = (
            "--num_epochs",
            "1",
            "--max_samples",
            "4",
            "--batch_size",
            "4",
            "--seq_len",
            "16",
            "--data_path",
            "text.txt",
            "--quiet",
        )
        method = random.choice(["lora", "full"])
        done = case.run("finetune", model, "--finetune_method", method, *small, "--output_dir", "out", results=("out",))
        if done.code == 0:
            finite_json(case, case.input / "out" / "report.json")
            _agrees(case, case.input / model, None, "finetune")
            _agrees(case, case.input / "out" / "model", None, "finetune's result")
    elif command in ("huggingface", "gguf"):
        done = case.run("export", model, "--to", command, "--output", "out", "--quiet", results=("out",))
        if done.code == 0 and command == "huggingface":
            loss = _agrees(case, case.input / model, None, "export")
            _agrees(case, case.input / "out" / "model", None, "export's result", loss)
    else:
        checked = case.run("verify", model, codes=(0, 1, 2))
        if checked.code == 0 and sound:
            _unchanged(case, case.input / model, sound)


def _agrees(case: Case, model: Path, perplexity: float | None, what: str, loss: float | None = None) -> float | None:
    """What a command answered (a perplexity, or the loss of the model that it read) is what transformers alone makes of the directory.

    Returns the loss of the directory on tokens that need no tokenizer.
    """
    answer = case.scratch / "answer.json"
    outcome = process.in_child(
        lambda: _by_transformers(model, case.input / "text.txt", answer), case.input, case.scratch
    )
    if outcome.code != 0:
        line = (outcome.err.strip().splitlines() or ["?"])[-1]
        case.add("accepted what transformers refuses", f"{what} {line.partition(':')[0]}", line[:500])
        return None
    found = json.loads(answer.read_text(encoding="utf-8"))
    if found["strange"]:
        case.add(
            "accepted what transformers does not load whole",
            f"{what} {sorted(found['strange'])}",
            str(found["strange"])[:500],
        )
    for name, value in (("perplexity", perplexity), ("loss", loss)):
        if value is not None and not (
            found[name] is not None and math.isclose(float(value), found[name], rel_tol=0.02)
        ):
            case.add("another model than transformers loads", f"{what} {name}", f"{value} instead of {found[name]}")
    return found["loss"]


def _by_transformers(model: Path, text: Path, answer: Path) -> None:
    """The reference: the perplexity of the first windows of the text, the loss of fixed tokens, and what is not there or not used."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(model)
    if getattr(config, "head_dim", 0) is None:  # hgsp takes it for absent; transformers in some families only
        config.head_dim = config.hidden_size // config.num_attention_heads
    loaded, info = AutoModelForCausalLM.from_pretrained(model, config=config, dtype="auto", output_loading_info=True)

    def loss(windows: torch.Tensor) -> float:
        with torch.no_grad():
            logits = loaded.eval()(windows, use_cache=False).logits.float()
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten()).item()

    strange = {key: sorted(map(str, info[key])) for key in ("missing_keys", "mismatched_keys") if info[key]}
    found = {
        "strange": strange,
        "perplexity": None,
        "loss": loss(torch.arange(32).view(2, 16) % loaded.config.vocab_size),
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        ids = tokenizer(text.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
        found["perplexity"] = math.exp(loss(torch.tensor(ids[: len(ids) // 16 * 16]).view(-1, 16)[:8]))
    except Exception as error:  # noqa: BLE001 - an export needs no tokenizer; where one was needed, the perplexity is missed
        print(f"no perplexity: {error!r}")
    answer.write_text(json.dumps(found), encoding="utf-8")


def _unchanged(case: Case, model: Path, sound: Path) -> None:
    """`verify` calls sound only what is: no file that the record lists differs from what was written."""
    if _digest(model / "hgsp.json") != _digest(sound / "hgsp.json"):
        return  # the record itself was damaged, and may be gone
    for path in sorted(sound.rglob("*")):
        name = path.relative_to(sound)
        if path.is_file() and name.name != "hgsp.json" and _digest(path) != _digest(model / name):
            case.add("verify calls it sound", str(name), f"{name} is not what was written")


def _digest(path: Path) -> bytes | None:
    return hashlib.blake2b(path.read_bytes()).digest() if path.is_file() else None
