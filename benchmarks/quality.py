"""Every method on the same models, tokens and ratios: what is left of the model, and what that costs.

    python benchmarks/quality.py [--models DIR ...] [--data DIR] [--ratios 20 30 50] [--methods NAME ...] [--seeds 0]
                                 [--samples 128] [--windows N] [--questions N] [--last-words N]
                                 [--json FILE] [--markdown FILE]

The models are the demo model and every grouped-query checkpoint below --models; --data holds their texts (see `Texts`).
Ratios are percentages of the decoder layers' parameters. All methods see one token set per model and seed, which is
checked by its hash; none runs with calibration settings of its own, though its paper may have had others.

Each run is a whole `hgsp run` without exports, in a process of its own that is forked after the imports. Its peak is the
largest resident set of that process, imports and evaluation included (that of the dense model in the first run of a model
alone: the others find it). Its seconds are those of all stages but evaluation.
A model of no known kind is calibrated on WikiText-2 and also measured on C4 and narrative text, where --data has them. With
--questions both models answer the sets below DATA/mc and continue 50 windows (`fidelity`).

Statistics that methods share are measured once; their seconds and peak count for each of these methods, at each ratio.

Rows already in the JSON file are not run again, so an interrupted benchmark goes on where it was. Tables: `tables.py`, which
also makes them of files of rows. Results: docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: F401 - before the forks, so that no process spends its time on importing it
import transformers  # noqa: F401
import yaml
from questions import write_tasks
from tables import DENSE, Row, markdown

from hgsp_core import HgspError, run
from hgsp_core.data.run import CHARACTERS_PER_TOKEN
from hgsp_core.pipeline import peak_memory
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import QUALITY, Recipe, parse_recipe
from hgsp_core.runtime.store import Store

DEMO = Path(__file__).parents[1] / "models" / "pydoc-llama"
SEQ_LEN = 128
#: the kind of text that a model was trained on, by the start of its directory's name; all others: WikiText-2
KINDS = {"pydoc": "pydoc", "stories": "stories", "babyllama": "stories"}
#: options of `least-squares` that take one part of it away
LESS = {"reselect": False, "readers": False, "ridge": 0.01}
#: metrics of `fidelity` that rows have
FIDELITY = (
    "kl_of_choices",
    "target_nats_change",
    "answer_accuracy",
    "kl_to_dense",
    "same_greedy_answer",
    "same_greedy_tokens",
)
#: windows that both models read and continue
PROMPTS = 50
#: stages of a run that fill the store
MEASURING = ("Calibrate", "Load", "Sweep")


# ---------------------------------------------------------------- methods


def methods(layers: int) -> dict[str, dict[str, Any]]:
    """Name -> the stages of its recipe, without the ratio; of those that share statistics, one without repair first.

    Args:
        layers: depth of the model. LLM-Pruner's authors leave 4 layers at the input and 2 at the output of 32; here it
            leaves the same share of the depth, but one at each end at the least, as in its recipe.
    """
    uniform, plain = {"use": "uniform"}, {"use": "hgsp", "with": {"temperature": 0}}
    middle = {"layer_start": max(1, layers * 4 // 32), "layer_end": layers * 30 // 32}
    squares = {"use": "least-squares"}
    planned, writers, fixed = ({**squares, "with": {option: value}} for option, value in LESS.items())
    damped = {**squares, "with": {"damp": True}}

    def recipe(score: str, allocate: dict[str, Any], **stages: Any) -> dict[str, Any]:
        return {"score": {"use": score}, "allocate": allocate, **stages}

    def gated(prior: str, **stages: Any) -> dict[str, Any]:
        return recipe("taylor", {"use": "hgsp"}, prior={"use": prior}, **stages)

    ranking, ranking_heads = {"use": "global"}, {"use": "global", "with": {"query_heads": True}}
    none, heads = {"use": "none"}, {"use": "hgsp", "with": {"temperature": 0, "query_heads": True}}
    found = {
        "random": recipe("random", uniform),
        "magnitude": recipe("magnitude", uniform),
        "wanda": recipe("wanda", uniform),
        "wanda-sp": recipe("wanda-sp", uniform),
        "llm_pruner": recipe("llm_pruner", {"use": "uniform", "with": {"attention": middle, "mlp": middle}}),
        "flap": recipe("flap", plain, reconstruct={"use": "bias"}),
        "slimgpt": recipe("magnitude", {"use": "slimgpt"}, reconstruct={"use": "slimgpt"}),
        "shortgpt": recipe("random", {"use": "depth"}, prior={"use": "similarity"}),
        "torch_pruning": recipe("magnitude", {"use": "torch_pruning"}),
        "torch_pruning, taylor": recipe("taylor", {"use": "torch_pruning"}),
        "layerwise": recipe("taylor", {"use": "layerwise"}, prior={"use": "removal"}),
        "uniform, taylor": recipe("taylor", uniform),
        "hgsp, T = 0": recipe("taylor", plain),
        "hgsp, T = 0, query heads": recipe("taylor", heads),
        "hgsp, similarity": gated("similarity"),
        "hgsp, removal": gated("removal"),
        "hgsp, removal + log": gated("removal", normalize=[{"use": "log"}]),
        "hgsp, removal + least-squares": gated("removal", reconstruct=squares),
        "hgsp, T = 0 + least-squares": recipe("taylor", plain, reconstruct=squares),
        "hgsp, T = 0, query heads + least-squares": recipe("taylor", heads, reconstruct=squares),
        "uniform, wanda-sp + least-squares": recipe("wanda-sp", uniform, reconstruct=squares),
        "uniform, output + least-squares": recipe("output", uniform, reconstruct=squares),
        "uniform, obs + least-squares": recipe("obs", uniform, reconstruct=squares),
        "uniform, curvature + least-squares": recipe("curvature", uniform, reconstruct=squares),
        "output + least-squares": recipe("output", ranking, reconstruct=squares),
        "curvature": recipe("curvature", ranking),
        "curvature, one step + least-squares": recipe("curvature", ranking, iterative_steps=1, reconstruct=squares),
        "curvature, query heads + least-squares": recipe("curvature", ranking_heads, reconstruct=squares),
        "curvature + least-squares, no reselection": recipe("curvature", ranking, reconstruct=planned),
        "curvature + least-squares, writers only": recipe("curvature", ranking, reconstruct=writers),
        "curvature + least-squares, ridge 0.01": recipe("curvature", ranking, reconstruct=fixed),
        "curvature + least-squares, damped": recipe("curvature", ranking, reconstruct=damped),
    }
    found = {name: {"reconstruct": none, **stages} for name, stages in found.items()}
    return found | {name: {"quality": name, "allocate": {}} for name in QUALITY}


# ---------------------------------------------------------------- models and texts


@dataclass(frozen=True)
class Texts:
    """Datasets of one model, windows of its calibration set, and a folder for what its runs write.

    `other` is of another kind than the model's own text; `more`: name -> further texts. `tasks`: names of question sets in
    `folder`.
    """

    folder: Path
    samples: int
    calibration: str
    evaluation: str
    other: str | None
    more: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()

    @property
    def evaluators(self) -> list[dict[str, Any]]:
        texts = [name for name in (self.evaluation, self.other, *self.more.values()) if name]
        found: list[dict[str, Any]] = [{"use": "perplexity", "with": {"datasets": texts}}]
        if self.tasks:
            asked = {"tasks": list(self.tasks), "include_path": str(self.folder / "tasks")}
            read = {"datasets": [self.evaluation], "max_windows": PROMPTS, "prompts": PROMPTS}
            found.append({"use": "fidelity", "with": {**read, **asked}})
        return found


def texts(
    model: Path, data: Path | None, folder: Path, samples: int, questions: int = 0, words: int | None = None
) -> Texts:
    """The texts for a model, by its directory's name.

    Args:
        data: holds wikitext2/wiki.train.tokens, wikitext2/wiki.valid.tokens and tinystories/*.txt; the demo model alone
            needs none of it.
        folder: the texts are written here as the .txt files that a recipe can name.
        samples: of the calibration set.
        questions: of each set of choices; 0 = no questions. words: of a set of last words; None = as many.
    """
    kind = next((kind for start, kind in KINDS.items() if model.name.startswith(start)), "wikitext2")
    if kind == "pydoc" and data is None:
        return Texts(folder, samples, "pydoc", "pydoc", None)
    if data is None:
        raise SystemExit(f"{model}: its text ({kind}) is looked for below --data, which is not given")
    read = {"wikitext2": partial(wikitext, samples=samples), "stories": stories}
    pairs = {}
    for name, split in read.items():
        files = tuple(folder / f"{name}-{part}.txt" for part in ("calibration", "evaluation"))
        if not files[0].exists():
            for file, text in zip(files, split(data), strict=True):
                file.write_text(text, encoding="utf-8")
        pairs[name] = tuple(map(str, files))
    other = pairs["stories" if kind == "wikitext2" else "wikitext2"][1]
    own = pairs.get(kind, ("pydoc", "pydoc"))
    if any(model.name.startswith(start) for start in KINDS):
        return Texts(folder, samples, *own, other)
    more = {name: str(file) for name, text in further(data) if (file := _written(folder / f"{name}.txt", text))}
    tasks: list[str] = []
    if questions:
        (folder / "tasks").mkdir(exist_ok=True)
        tasks = write_tasks(data / "mc", folder / "tasks", questions, words or questions)
    return Texts(folder, samples, *own, other, more, tuple(tasks))


def further(data: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of what no method is calibrated on: web pages, and the beginnings of LAMBADA's passages."""
    for name, folder, key in (("C4", "c4", "text"), ("narrative", "mc/lambada_openai.jsonl", "context")):
        path = data / folder
        files = sorted(path.glob("*.jsonl"))[:1] if path.is_dir() else [path] if path.exists() else []
        for file in files:
            rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
            yield name, "\n\n".join(row[key] for row in rows)


def _written(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def wikitext(data: Path, samples: int) -> tuple[str, str]:
    """(calibration, evaluation): the first part of train, as much as a streamed dataset would give; valid."""
    with (data / "wikitext2" / "wiki.train.tokens").open(encoding="utf-8") as file:
        train = file.read(samples * SEQ_LEN * CHARACTERS_PER_TOKEN)
    return train, (data / "wikitext2" / "wiki.valid.tokens").read_text(encoding="utf-8")


def stories(data: Path) -> tuple[str, str]:
    """(calibration, evaluation): the first nine tenths of the stories, and the rest."""
    file = next(iter(sorted((data / "tinystories").glob("*.txt"))))
    told = [story.strip() for story in file.read_text(encoding="utf-8").split("<|endoftext|>")]
    split = len(told) * 9 // 10
    return "\n\n".join(told[:split]), "\n\n".join(told[split:])


def grouped_models(directories: list[Path]) -> list[Path]:
    """Every checkpoint at or below the directories in which query heads share KV heads."""

    def grouped(file: Path) -> bool:
        config = json.loads(file.read_text(encoding="utf-8"))
        return config.get("num_key_value_heads", 0) < config.get("num_attention_heads", 0)

    return [file.parent for top in directories for file in sorted(top.rglob("config.json")) if grouped(file)]


# ---------------------------------------------------------------- runs


def recipe_of(stages: dict[str, Any], model: Path, text: Texts, ratio: int, seed: int, windows: int | None) -> Recipe:
    """The recipe of one run; `ratio` in percent."""
    allocate = stages["allocate"]
    evaluators = text.evaluators
    evaluators[0]["with"]["max_windows"] = windows
    data = {
        "model": {"path": str(model)},
        "calibrate": {"dataset": text.calibration, "samples": text.samples, "seq_len": SEQ_LEN, "seed": seed},
        **stages,
        "allocate": {**allocate, "with": {**allocate.get("with", {}), "ratio": ratio / 100, "of": "layers"}},
        "evaluate": evaluators,
        "export": [],
        "device": "cpu",
        "output": str(text.folder / "run"),
    }
    return parse_recipe(yaml.safe_dump(data), "benchmark")


def apart(recipe: Recipe, store: Store) -> dict[str, Any]:
    """The report of the run, from a forked process; where a method refuses the model, its message as `why_not`."""
    sys.stdout.flush()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                report = run(recipe, LogMonitor(), store)
            except HgspError as error:
                report = {"why_not": str(error)}
            with os.fdopen(write, "w") as pipe:
                json.dump({**report, "peak_memory_bytes": peak_memory()}, pipe)
            code = 0
        except BaseException:  # noqa: BLE001 - the child must not go on as a second parent
            traceback.print_exc()
        os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    shutil.rmtree(recipe.output, ignore_errors=True)
    if status:
        raise SystemExit("A run ended with the traceback above.")
    return json.loads(text)


class Bench:
    """Runs on one model with one seed, and what their shared statistics cost."""

    def __init__(self, model: Path, text: Texts, seed: int, windows: int | None):
        self.model, self.text, self.seed, self.windows = model, text, seed, windows
        self.measuring: dict[Path, dict[str, float]] = {}  # store -> stage -> seconds
        self.peak: dict[Path, int] = {}  # store -> bytes

    def rows(self, method: str, stages: dict[str, Any], ratio: int) -> list[Row]:
        """The row of a method, and that of the dense model."""
        recipe = recipe_of(stages, self.model, self.text, ratio, self.seed, self.windows)
        statistics_of = [recipe.score.use, recipe.prior.use if "prior" in stages else "none"]
        if recipe.score.use == "curvature":  # later steps measure the model as pruned so far
            statistics_of += [str(recipe.iterative_steps), str(ratio)]
        root = self.text.folder / "-".join(["store", self.model.name, str(self.seed), *statistics_of])
        if not root.exists():  # what is measured of the dense model is the same in all of them, and no method's cost
            (self.text.folder / "evaluation").mkdir(exist_ok=True)
            root.mkdir()
            (root / "evaluation").symlink_to(self.text.folder / "evaluation")
        report = apart(recipe, Store(root))
        row = {"model": self.model.name, "method": method, "of": "layers", "ratio": ratio / 100, "seed": self.seed}
        if "why_not" in report:
            return [row | report]
        timings = report["timings"]
        known = self.measuring.setdefault(root, {})
        for stage in MEASURING:
            known[stage] = max(known.get(stage, 0.0), timings.get(stage, 0.0))
        self.peak.setdefault(root, report["peak_memory_bytes"])
        rest = sum(s for stage, s in timings.items() if stage not in MEASURING and not stage.startswith("Evaluate"))
        before, after = report["before"], report["after"]
        dense = row | {"method": DENSE, "ratio": 0.0} | self._found(before, before)
        found = self._found(before, after) | {
            "seconds": rest + sum(known.values()),
            "peak_bytes": max(self.peak[root], report["peak_memory_bytes"]),
            "tokens_sha256": report["calibration"] and report["calibration"]["tokens_sha256"],
            "predicted_kl": report["predicted_kl"],
            "notes": report["notes"],
        }
        return [dense, row | found]

    def _found(self, before: dict[str, Any], now: dict[str, Any]) -> Row:
        return {
            "achieved": 1 - now["layer_parameters"] / before["layer_parameters"],
            "parameters": now["parameters"],
            "ppl": now["perplexity"][self.text.evaluation],
            "ppl_dense": before["perplexity"][self.text.evaluation],
            "ppl_other_text": now["perplexity"].get(self.text.other),
            "ppl_more": {name: now["perplexity"][file] for name, file in self.text.more.items()},
            "fidelity": {name: now[name] for key in FIDELITY for name in (key, f"{key}_stderr") if name in now},
            "windows": self.windows,
            "samples": self.text.samples,
        }


def check_tokens(rows: Sequence[Row]) -> None:
    """All rows of a model and seed saw the same calibration tokens, or none."""
    seen: dict[tuple[str, int], dict[str, str]] = {}
    for row in rows:
        if row.get("tokens_sha256"):
            seen.setdefault((row["model"], row["seed"]), {})[row["tokens_sha256"]] = row["method"]
    for (model, seed), hashes in seen.items():
        if len(hashes) > 1:
            raise SystemExit(f"{model}, seed {seed}: not the same calibration tokens: {hashes}")


def main() -> None:
    names = list(methods(layers=32))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, nargs="+", default=[], metavar="DIR", help="look for more models here")
    parser.add_argument("--data", type=Path, metavar="DIR", help="texts for these models")
    parser.add_argument("--ratios", type=int, nargs="+", default=[20, 30, 50], help="percent of the layers' parameters")
    told = f"of: {'; '.join(names)}"
    parser.add_argument("--methods", nargs="+", choices=names, default=names, metavar="NAME", help=told)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the calibration windows")
    parser.add_argument("--samples", type=int, default=128, help=f"calibration windows of {SEQ_LEN} tokens")
    parser.add_argument("--windows", type=int, help="evaluate on the first so many windows of each text; default all")
    parser.add_argument("--questions", type=int, default=0, help="questions of each set that both models answer")
    parser.add_argument("--last-words", type=int, metavar="N", help="of a set of last words; default as --questions")
    parser.add_argument("--json", type=Path, help="write the rows here as they come; rows there are not run again")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    options = parser.parse_args()

    rows: list[Row] = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    for name, wanted in {"samples": options.samples, "windows": options.windows}.items():
        if any(row.get(name, 128) != wanted for row in rows if "why_not" not in row):
            parser.error(f"{options.json} has rows of another --{name}: give another file")
    done = {_key(row) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for model in [DEMO, *grouped_models(options.models)]:
            text = texts(model, options.data, Path(folder), options.samples, options.questions, options.last_words)
            layers = json.loads((model / "config.json").read_text())["num_hidden_layers"]
            for seed in options.seeds:
                bench = Bench(model, text, seed, options.windows)
                for ratio in options.ratios:
                    for method in options.methods:
                        wanted = {"model": model.name, "method": method, "ratio": ratio / 100, "seed": seed}
                        if _key(wanted) in done:
                            continue
                        new = [r for r in bench.rows(method, methods(layers)[method], ratio) if _key(r) not in done]
                        done |= {_key(row) for row in new}
                        rows += new
                        check_tokens(rows)
                        if options.json:
                            options.json.write_text(json.dumps(rows, indent=1) + "\n")
                        print(*(_line(row) for row in new), sep="\n", file=sys.stderr)
    tables = markdown(rows)
    print(tables)
    if options.markdown:
        options.markdown.write_text(tables, encoding="utf-8")


def _key(row: Row) -> tuple:
    return row["model"], row["method"], row["ratio"], row["seed"]


def _line(row: Row) -> str:
    result = row.get("why_not")
    if result is None:
        result = f"{row['ppl']:.2f} ({row['ppl'] / row['ppl_dense']:.3f}), removed {row['achieved']:.1%}"
    return f"{row['model']}, {row['method']}, {row['ratio']:.0%}: {result}"


if __name__ == "__main__":
    main()
