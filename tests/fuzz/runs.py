"""Directories of runs, of trainings and of sweeps, damaged, for the commands that read them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import yaml

from .case import Case
from .material import RUNS, Material, recipe
from .mutate import copied, damaged_bytes, damaged_files, damaged_json, damaged_text, damaged_tree


def case(case: Case, random: Random, material: Material) -> None:
    """Damage a finished run, and give it to a command that reads runs."""
    (case.input).mkdir(parents=True)
    (case.input / "text.txt").write_bytes(material.text.read_bytes())
    if random.random() < 0.15:
        _sweep(case, random, material)
        return
    name = random.choice(list(RUNS))
    run = copied(material.run(name), case.input / "run")
    case.said.append(name)
    for _ in range(random.choice([1, 1, 2])):
        case.said.append(_damaged(run, random))
    command = random.choice(
        ["compare"] * 5 + ["diagnose"] * 2 + ["verify"] * 2 + ["gguf", "huggingface", "eval", "finetune", "again"]
    )
    if command == "compare":
        other = material.run(random.choice(list(RUNS)))
        form = random.choice(
            [
                (),
                ("--csv",),
                ("--markdown",),
                ("--html",),
                ("--json",),
                ("--sort", "parameters"),
                ("--html", "-o", "page.html"),
            ]
        )
        case.run("compare", *random.choice([("run",), ("run", other), (other, "run")]), *form, results=("page.html",))
    elif command == "diagnose":
        case.run("diagnose", "run", *random.choice([(), ("--json",)]))
    elif command == "verify":
        case.run("verify", "run", *random.choice([(), ("--json",)]), codes=(0, 1, 2))
    elif command in ("gguf", "huggingface"):
        case.run("export", "run", "--to", command, "--output", "out", "--quiet", results=("out",))
    elif command == "eval":
        case.run(
            "eval",
            "run",
            "--dataset",
            "text.txt",
            "--seq_len",
            "16",
            "--max_samples",
            "4",
            "--quiet",
            "-o",
            "found.json",
            results=("found.json",),
        )
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
        case.run("finetune", "run", *small, "--output_dir", "out", results=("out",))
    else:
        case.run("plan", "run/recipe.yaml", "--output", "out", "--quiet")


def _damaged(run: Path, random: Random) -> str:
    """Mostly the files that commands read."""
    read = [
        p
        for name in ("report.json", "plan.json", "gradient_diagnosis.json", "model/hgsp.json")
        if (p := run / name).is_file()
    ]
    kind = random.random()
    try:
        if kind < 0.7 and read:
            return damaged_json(random.choice(read), random)
        if kind < 0.8 and (run / "recipe.yaml").is_file():
            return _damaged_yaml(run / "recipe.yaml", random)
        if kind < 0.87:
            folder = random.choice([p for p in sorted(run.iterdir()) if p.is_dir()])
            shutil.rmtree(folder)
            return f"{folder.name}/ removed"
    except (ValueError, KeyError, TypeError, AttributeError, LookupError):
        pass  # the damage before this one left nothing of the form
    return damaged_files(run, random)


def _damaged_yaml(path: Path, random: Random) -> str:
    text = path.read_text(encoding="utf-8")
    way = random.choice(["tree", "tree", "text", "bytes"])
    if way == "tree":
        tree, said = damaged_tree(yaml.safe_load(text), random, random.choice([1, 2]))
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    elif way == "text":
        text, said = damaged_text(text, random)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    else:
        data, said = damaged_bytes(text.encode(), random)
        path.write_bytes(data)
    return f"{path.name}: {said}"


def _sweep(case: Case, random: Random, material: Material) -> None:
    """A sweep that is finished: started again it keeps its runs, or says why it cannot."""
    base = recipe(str(material.dense("llama-tied")))
    base |= yaml.safe_load((material.run("tied") / "recipe.yaml").read_text(encoding="utf-8"))
    name = "ratio-0.1"
    (case.input / "sweep.yaml").write_text(
        json.dumps({"version": 1, "base": base, "grid": {"allocate.with.ratio": [0.1]}, "output": "sweep"}),
        encoding="utf-8",
    )
    sweep = case.input / "sweep"
    (sweep / "runs").mkdir(parents=True)
    shutil.copy(case.input / "sweep.yaml", sweep / "sweep.yaml")
    run = copied(material.run("tied"), sweep / "runs" / name)
    case.said.append(f"sweep of one run: {_damaged(run, random)}")
    if random.random() < 0.3:
        case.said.append(damaged_files(sweep, random))
    command = random.choice(["dry", "compare"])
    if command == "dry":
        case.run("sweep", "sweep.yaml", "--dry-run")
    else:
        case.run("compare", "sweep", *random.choice([(), ("--html",), ("--json",)]))
