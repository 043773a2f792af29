"""Recipes, sweep files, settings and flags, damaged, for the commands that read them."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import yaml

from .case import Case
from .material import ROOT, Material, recipe
from .mutate import ODD, damaged_bytes, damaged_text, damaged_tree

#: a number that makes a sound recipe take hours is no damage
_COSTLY = ("2**31", "2**63", "10**400", "1e308", "x 1000", "10,000 items")
_MODELS = ("llama", "llama-tied", "qwen2", "qwen3", "mistral", "llama-sharded")
_METHODS: dict[str, tuple[Any, ...]] = {
    "score": (
        {"use": "wanda"},
        {"use": "magnitude"},
        {"use": "output"},
        {"use": "curvature"},
        {"use": "obs"},
        {"use": "random", "with": {"seed": 1}},
    ),
    "prior": ({"use": "removal", "with": {"samples": 4}}, {"use": "activation"}),
    "normalize": ([], [{"use": "clip"}, {"use": "minmax"}], [{"use": "zscore"}]),
    "allocate": (
        {"use": "hgsp", "with": {"ratio": 0.1, "temperature": 0.5, "tau": "auto", "epsilon": 0.1}},
        {"use": "layerwise", "with": {"ratio": 0.1, "strategy": "inverse"}},
        {"use": "uniform", "with": {"ratio": 0.1}},
        {"use": "global", "with": {"ratio": 0.1, "query_heads": True}},
        {"use": "depth", "with": {"ratio": 0.1}},
        {"use": "slimgpt", "with": {"ratio": 0.1}},
        {"use": "torch_pruning", "with": {"ratio": 0.1}},
    ),
    "reconstruct": (
        {"use": "none"},
        {"use": "bias"},
        {"use": "least-squares", "with": {"target": "own"}},
        {"use": "slimgpt"},
    ),
    "iterative_steps": (1, 2, "auto"),
    "memory": ("cpu", "disk", "device"),
}


def case(case: Case, random: Random, material: Material) -> None:
    """Damage one file or setting, and give it to a command that reads it."""
    case.input.mkdir(parents=True)
    (case.input / "text.txt").write_bytes(material.text.read_bytes())
    random.choice(
        [_validate] * 12 + [_dry_sweep] * 3 + [_plan] * 3 + [_setting] * 2 + [_flags] * 2 + [_part] * 2 + [_run]
    )(case, random, material)


def drawn(random: Random, material: Material) -> dict[str, Any]:
    """A sound recipe of small cost."""
    more = {key: random.choice(values) for key, values in _METHODS.items() if random.random() < 0.3}
    found = recipe(str(material.dense(random.choice(_MODELS))), **more)
    found["model"]["weights"] = random.choice(["auto", "resident", "streamed"])
    return found


def _written(
    case: Case, random: Random, tree: Any, name: str, ways: tuple[str, ...] = ("tree", "tree", "tree", "text", "bytes")
) -> str:
    """Write the damaged file; what was done to it."""
    path, way = case.input / name, random.choice(ways)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=random.random() < 0.5)
    data = text.encode("utf-8", "surrogatepass")
    if way == "tree":
        tree, said = damaged_tree(tree, random, random.choice([1, 1, 2, 4]))
        data = yaml.safe_dump(tree, sort_keys=False, allow_unicode=random.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
    elif way == "text":
        text, said = damaged_text(text, random)
        data = text.encode("utf-8", "surrogatepass")
    else:
        data, said = damaged_bytes(data, random)
    path.write_bytes(data)
    case.said.append(f"{name}: {said}")
    return said


def _validate(case: Case, random: Random, material: Material) -> None:
    if random.random() < 0.5:
        tree = drawn(random, material)
    else:
        tree = _of_the_repository(random)
    _written(case, random, tree, "recipe.yaml")
    case.run("recipe", "validate", "recipe.yaml")


def _of_the_repository(random: Random, *, sweep: bool = False) -> Any:
    """A recipe or a sweep; with `sweep`, a sweep."""
    files = sorted((ROOT / "recipes").rglob("*.yaml"))
    trees = {file: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}
    file = random.choice([file for file, tree in trees.items() if "base" in tree or not sweep])
    if isinstance(base := trees[file].get("base"), str):
        trees[file]["base"] = str((file.parent / base).resolve())
    return trees[file]


def _dry_sweep(case: Case, random: Random, material: Material) -> None:
    if random.random() < 0.5:
        tree = _of_the_repository(random, sweep=True)
    else:
        base = drawn(random, material)
        tree = {
            "version": 1,
            "base": base,
            "grid": {"allocate.with.ratio": [0.1, 0.2], "calibrate.seed": [0, 1]},
            "output": "sweep",
        }
        tree["variants"] = {"method": [{"name": "a", "set": {}}, {"name": "b", "set": {"score.use": "wanda"}}]}
    _written(case, random, tree, "sweep.yaml")
    case.run("sweep", "sweep.yaml", "--dry-run", *random.choice([(), ("--json",)]))


def _plan(case: Case, random: Random, material: Material) -> None:
    said = _written(case, random, drawn(random, material), "recipe.yaml", ("tree", "tree", "tree", "text"))
    command = ("recipe", "validate") if any(word in said for word in _COSTLY) else ("plan",)
    case.run(*command, "recipe.yaml", *(random.choice([(), ("--json",)]) if command == ("plan",) else ()))


def _run(case: Case, random: Random, material: Material) -> None:
    said = _written(case, random, drawn(random, material), "recipe.yaml", ("tree",))
    if any(word in said for word in _COSTLY):
        case.run("recipe", "validate", "recipe.yaml")
        return
    outcome = case.run("run", "recipe.yaml", "--quiet", "--output", "out", results=("out",))
    if outcome.code == 0:
        finite_json(case, case.input / "out" / "report.json")


def _setting(case: Case, random: Random, material: Material) -> None:
    """`--set` and `--output` with odd values."""
    (case.input / "recipe.yaml").write_text(json.dumps(drawn(random, material)), encoding="utf-8")
    name, value = random.choice([odd for odd in ODD if odd[0] not in _COSTLY])
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.replace("\0", "").encode("utf-8", "replace").decode()
    keys = ["model.path", "calibrate.dataset", "calibrate.seed", "score.use", "allocate.with.ratio", "normalize.0.use",
            "normalize.7.use", "evaluate.0.with.datasets", "evaluate.0.with.datasets.0", "device", "output", "prior",
            "export", "a.b.c", "", ".", "version"]  # fmt: skip
    key = random.choice(keys)
    case.said.append(f"--set {key}={name}")
    if random.random() < 0.2:
        case.run("recipe", "validate", text[:4000] or "x")
    elif random.random() < 0.2 and not text.startswith(("/", "~", "..")):
        case.run("run", "recipe.yaml", "--quiet", "--output", text, results=(text.strip("\n").split("/")[0],))
    else:
        case.run("plan", "recipe.yaml", "--set", f"{key}={text}", "--quiet")


_FLAGS = ("--pruning_ratio", "--pruning_strategy", "--pruning_distribution", "--temperature", "--tau", "--epsilon", "--layer_start",
          "--importance_method", "--layer_importance_method", "--layer_importance_config", "--dataset", "--nsamples", "--seq_len",
          "--stride", "--norm_method", "--finetune_data_path", "--finetune_epochs", "--eval_tasks", "--output_name", "--output",
          "--base_model", "--head_dim", "--gqa_ratio", "--device", "--iterative_steps", "--set")  # fmt: skip


def _flags(case: Case, random: Random, material: Material) -> None:
    """`hgsp prune --print-recipe` with odd flags."""
    given: list[str] = ["--base_model", str(material.dense("llama"))]
    for _ in range(random.choice([1, 2, 3])):
        name, value = random.choice(ODD)
        text = (
            (value if isinstance(value, str) else json.dumps(value))
            .replace("\0", "")
            .encode("utf-8", "replace")
            .decode()
        )
        flag = random.choice(_FLAGS)
        given += [flag, text[:20_000]]
        case.said.append(f"{flag} {name}")
    case.run("prune", *given, "--print-recipe")


def _part(case: Case, random: Random, material: Material) -> None:
    """The parts of a recipe that other commands start from."""
    tree = drawn(random, material)
    tree["recover"] = {
        "use": "lora",
        "with": {"epochs": 1, "dataset": "text.txt", "records": {"seq_len": 16}, "samples": 8},
    }
    _written(case, random, tree, "recipe.yaml", ("tree", "tree", "text"))
    model = material.dense("llama")
    if random.random() < 0.5:
        case.run("finetune", model, "--recipe", "recipe.yaml", "--print-recipe")
    else:
        case.run("eval", model, "--recipe", "recipe.yaml", "--print-recipe")


def finite_json(case: Case, path: Path) -> None:
    """A result that other programs read must be JSON, which knows no NaN."""

    def refuse(text: str) -> None:
        raise ValueError(text)

    try:
        json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, ValueError) as error:
        case.add("bad result", f"{path.name} {type(error).__name__}", str(error))
