"""The flags of the research scripts that all pruning commands share, and the parts of a recipe that they stand for.

`prune.py` and `baseline.py` add their own. A flag is declared here with its help; what it sets stands in the function of
its part of the recipe, below.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from hgsp_core.cli.draft import Draft, as_yaml, check_model
from hgsp_core.cli.flags import Command, Flag, Given, Panel, takes
from hgsp_core.cli.options import Cache, Json, PrintRecipe, Quiet, Settings
from hgsp_core.errors import FlagError

MODEL = Panel(
    "Model",
    (
        Flag("--base_model", str, "Directory or hub id of the model, which is never modified. Required."),
        Flag("--head_dim", int, "Head size. Read from the model; a value given here must match."),
        Flag("--gqa_ratio", int, "Query heads per KV head. Read from the model; a value given here must match."),
        Flag("--device", str, "auto, cpu, cuda or cuda:N.", "auto"),
    ),
)

CALIBRATION = Panel(
    "Calibration set, shared by everything that measures",
    (
        Flag(
            "--dataset",
            str,
            "Name, local file or hub id; its evaluation split gives the perplexity. Several, comma-separated, have equal shares.",
            "wikitext2",
        ),
        Flag("--nsamples", int, "Windows drawn from the text.", "128"),
        Flag("--calibration_samples", int, "Alias of --nsamples."),
        Flag("--num_samples", int, "Alias of --nsamples."),
        Flag("--max_samples", int, "Cap on windows; overrides the flags above."),
        Flag("--seq_len", int, "Tokens per window.", "128"),
        Flag("--stride", int, "Tokens between the starts of consecutive windows.", "no overlap"),
    ),
)

FINETUNING = Panel(
    "Training after pruning",
    (
        Flag("--finetune", bool, "Train the pruned model; required by the flags below."),
        Flag("--finetune_method", str, "lora or full.", "lora"),
        Flag("--finetune_data_path", str, "Dataset name, local file or hub id.", "yahma/alpaca-cleaned"),
        Flag("--finetune_epochs", float, "Passes over the data.", "2"),
        Flag("--finetune_lr", float, "Peak learning rate.", "3e-4, full: 2e-5"),
        Flag("--finetune_samples", int, "Number of records, from the first.", "all"),
        Flag("--finetune_batch_size", int, "Records per optimizer step.", "128"),
        Flag("--finetune_micro_batch_size", int, "Records per forward pass; affects cost, never the result.", "4"),
        Flag("--lora_r", int, "Rank of the adapters.", "8"),
        Flag("--lora_alpha", float, "Adapter scale; the factor is alpha/r.", "16"),
    ),
)

RESULT = Panel(
    "Evaluation and result",
    (
        Flag("--skip_evaluation", bool, "Measure only parameters, size and MACs."),
        Flag("--eval_tasks", str, "Comma-separated lm-eval tasks: boolq,piqa. Perplexity is always measured.", "none"),
        Flag("--tasks", str, "Alias of --eval_tasks."),
        Flag("--output_name", str, "Write the result to results/NAME.", "from model, method and ratio", metavar="NAME"),
        Flag("--output", str, "Directory of the result; must not exist. Replaces --output_name.", metavar="DIR"),
    ),
)

RATIO = Flag("--pruning_ratio", float, "Share of all parameters to remove, 0..1.", "0.2")
SPLIT = (
    Flag("--pruning_distribution", str, "Budget of attention and MLPs: 5:5, 10:0, 0:10.", "one shared budget"),
    Flag("--prune_mlp", bool, "Prune MLPs too; --no-prune_mlp is 10:0.", "prune_mlp", off=True),
)
RANGE = (
    Flag("--layer_start", int, "Start of the range (inclusive), counted from 0.", "0"),
    Flag("--layer_end", int, "End of the range (exclusive).", "all"),
)


def model(draft: Draft) -> None:
    """`model` and `device`."""
    draft.put("model.path", "--base_model")
    if "model" not in draft.data:
        raise FlagError.required("--base_model", f"{draft.command} --base_model meta-llama/Meta-Llama-3-8B")
    check_model(draft)
    draft.put("device", "--device")


def calibrate(draft: Draft, samples: int = 128, seq_len: int = 128, stride: int | None = None) -> None:
    """`calibrate`; the arguments are the method's own defaults."""
    given = draft.take("--dataset")
    first, *others = texts("wikitext2" if given is None else given)
    draft.set("calibrate.dataset", [first, *others] if others else first, "--dataset")
    aliases = ("--calibration_samples", "--num_samples", "--head_importance_samples")
    draft.put("calibrate.samples", "--nsamples", *aliases, default=samples)
    most = draft.take("--max_samples")
    if most is not None and most < draft.data["calibrate"]["samples"]:
        draft.set("calibrate.samples", most, "--max_samples")
    draft.put("calibrate.seq_len", "--seq_len", "--taylor_seq_len", default=seq_len)
    draft.put("calibrate.stride", "--stride", default=stride)


def finetune(draft: Draft) -> None:
    """`recover`."""
    wanted, method = draft.take("--finetune"), draft.take("--finetune_method")
    if not wanted:
        orphans = [flag.name for flag in FINETUNING.flags[1:] if flag.name in draft.given]
        if orphans:
            raise FlagError.needs(orphans[0], "--finetune")
        return
    draft.set("recover.use", method or "lora", "--finetune_method")
    draft.put("recover.with.dataset", "--finetune_data_path", default="yahma/alpaca-cleaned")
    draft.put("recover.with.epochs", "--finetune_epochs")
    draft.put("recover.with.learning_rate", "--finetune_lr")
    draft.put("recover.with.samples", "--finetune_samples")
    draft.put("recover.with.batch_size", "--finetune_batch_size")
    draft.put("recover.with.micro_batch_size", "--finetune_micro_batch_size")
    lora_only(draft, method)
    draft.put("recover.with.r", "--lora_r")
    draft.put("recover.with.alpha", "--lora_alpha")


def lora_only(draft: Draft, method: str | None) -> None:
    """Raises FlagError where an adapter's size is given and there is no adapter."""
    for flag in ("--lora_r", "--lora_alpha"):
        if method == "full" and flag in draft.given:
            raise FlagError.excludes(flag, "--finetune_method full", "full training has no adapters")


def evaluate(draft: Draft) -> None:
    """`evaluate`."""
    tasks = draft.take("--eval_tasks", "--tasks")
    if draft.take("--skip_evaluation"):
        if tasks is not None:
            raise FlagError.excludes("--skip_evaluation", "--eval_tasks", "it skips all measurements")
        return
    dataset = draft.data["calibrate"]["dataset"]
    wanted = [{"use": "perplexity", "with": {"datasets": dataset if isinstance(dataset, list) else [dataset]}}]
    if tasks is not None:
        wanted.append({"use": "lm_eval", "with": {"tasks": names(tasks)}})
    draft.set("evaluate", wanted)


def texts(given: str) -> list[str]:
    """Names of texts with commas between them; a path may have blanks."""
    return [name.strip() for name in given.split(",")]


def names(given: str) -> list[str]:
    """Names with commas or blanks between them."""
    return given.replace(",", " ").split()


def output(draft: Draft, method: str, size: str = "") -> None:
    """`output`; without a flag it is named by the model, the method and the removed share (or `size`)."""
    name, directory = draft.take("--output_name"), draft.take("--output")
    if name is not None and directory is not None:
        raise FlagError.excludes("--output_name", "--output", "both set the output directory")
    if directory is not None:
        draft.set("output", directory, "--output")
    else:
        derived = f"{Path(draft.data['model']['path']).name}-{method}-{size or percent(draft)}"
        draft.set("output", str(Path("results", name or derived)), "--output_name" if name else "")


def percent(draft: Draft) -> str:
    return f"{100 * draft.data['allocate']['with']['ratio']:g}"


def recipe_command(*panels: Panel) -> Callable[[Callable[[Given], Draft]], Command]:
    """A command with these flags: the function makes a recipe of them, which is printed, or run as by `hgsp run`."""

    def decorate(function: Callable[[Given], Draft]) -> Command:
        def command(
            given: Given,
            settings: Settings = None,
            print_recipe: PrintRecipe = False,
            cache: Cache = None,
            quiet: Quiet = False,
            as_json: Json = False,
        ) -> None:
            from hgsp_core.cli.run import prune

            draft = function(given)
            recipe = draft.recipe(settings)
            for note in draft.notes:
                typer.echo(f"Note: {note}", err=True)  # stdout is for the result
            if print_recipe:
                typer.echo(as_yaml(recipe), nl=False)
            else:
                prune(recipe, cache, quiet, as_json)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return takes(*panels)(command)

    return decorate
