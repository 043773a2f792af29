"""`hgsp finetune`: train a pruned checkpoint further."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hgsp_core.cli.draft import Draft, as_yaml
from hgsp_core.cli.flags import Flag, Given, Panel, takes
from hgsp_core.cli.options import Cache, Json, PrintRecipe, Quiet, is_first, open_store, path_option, set_option
from hgsp_core.cli.origin import lora_only
from hgsp_core.cli.run import loading_lines
from hgsp_core.cli.show import output as stdout
from hgsp_core.cli.show import print_json
from hgsp_core.errors import FlagError, RecipeError
from hgsp_core.files.paths import expanded

PANEL = Panel(
    "Training",
    (
        Flag("--pruned_model", str, "Alias of CHECKPOINT.", metavar="DIR"),
        Flag("--finetune_method", str, "lora, full, or another recoverer (hgsp plugins list).", "lora"),
        Flag("--data_path", str, "Name, file or hub id of instructions, chats or text.", "yahma/alpaca-cleaned"),
        Flag("--num_epochs", float, "Passes over the data.", "2"),
        Flag("--learning_rate", float, "Peak learning rate.", "3e-4, full: 2e-5"),
        Flag("--batch_size", int, "Records per optimizer step.", "128"),
        Flag("--micro_batch_size", int, "Records per forward pass; affects cost, never the result.", "4"),
        Flag("--max_samples", int, "Number of records, from the first.", "all"),
        Flag("--num_samples", int, "Alias of --max_samples."),
        Flag("--seq_len", int, "Maximum tokens per record.", "256"),
        Flag("--lora_r", int, "Rank of the adapters.", "8"),
        Flag("--lora_alpha", float, "Adapter scale; the factor is alpha/r.", "16"),
        Flag("--use_gradient_checkpointing", bool, "Recompute activations instead of keeping them: less memory."),
        Flag("--device", str, "auto, cpu, cuda or cuda:N.", "auto"),
        Flag("--output_dir", str, "Directory of the result; must not exist.", "CHECKPOINT-finetuned", metavar="DIR"),
        Flag("--output", str, "Alias of --output_dir.", metavar="DIR"),
    ),
)

#: parameter of the recoverer -> flags that set it
_SETS = {
    "dataset": ("--data_path",),
    "epochs": ("--num_epochs",),
    "learning_rate": ("--learning_rate",),
    "batch_size": ("--batch_size",),
    "micro_batch_size": ("--micro_batch_size",),
    "samples": ("--max_samples", "--num_samples"),
    "records.seq_len": ("--seq_len",),
    "r": ("--lora_r",),
    "alpha": ("--lora_alpha",),
    "schedule.gradient_checkpointing": ("--use_gradient_checkpointing",),
}


@takes(PANEL)
def finetune(
    given: Given,
    checkpoint: Annotated[
        str | None,
        typer.Argument(metavar="CHECKPOINT", help="Run directory or Hugging Face directory.", show_default=False),
    ] = None,
    dense: Annotated[
        Path | None, path_option("--dense", metavar="DIR", help="Original model, the teacher of --set distill=true.")
    ] = None,
    recipe: Annotated[
        Path | None, path_option("--recipe", metavar="FILE", help="Start from its 'recover' part; flags override it.")
    ] = None,
    settings: Annotated[
        list[str] | None, set_option("Set any parameter (hgsp plugins show lora): --set schedule.patience=5.")
    ] = None,
    print_recipe: PrintRecipe = False,
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a pruned model to recover quality. A recipe can do the same with `recover`.

    Example: `hgsp finetune results/first --data_path yahma/alpaca-cleaned --num_epochs 2 --output_dir results/first-lora`

    Example: `hgsp finetune results/first --finetune_method full --data_path mine.jsonl --set distill=true --dense models/original`

    Training that was killed resumes from its last checkpoint when started again.

    To train with several processes: `torchrun --nproc-per-node=2 -m hgsp_core finetune results/first`

    Reads the checkpoint, which is not modified, and the data. Writes the directory: `model/`, `report.json` and `run.log`.
    """
    from hgsp_core.runtime.recipe import resolved_use

    draft = draft_of(given, checkpoint, recipe)
    checked = draft.recipe([f"recover.with.{setting}" for setting in settings or ()])
    assert checked.recover is not None  # `draft_of` says which
    if dense is not None and not resolved_use("recoverer", checked.recover).with_.get("distill", True):
        raise FlagError.needs("--dense", "--set distill=true")
    if print_recipe:
        typer.echo(as_yaml(checked, "recover"), nl=False)
        return
    from hgsp_core.cli.console import terminal

    with terminal(quiet or not is_first()) as monitor:
        from hgsp_core.recover.finetune import finetune as train

        report = train(
            expanded(checked.model.path),
            checked.recover,
            Path(checked.output),
            monitor,
            device=checked.device,
            dense=dense,
            store=open_store(cache),
        )
    if is_first():
        show(report, Path(checked.output), as_json)


def draft_of(given: Given, checkpoint: str | None, recipe: Path | None) -> Draft:
    """A recipe whose model is the checkpoint, and whose 'recover' part is the training."""
    draft = Draft("hgsp finetune", given)
    if recipe is not None:
        draft.load(recipe, "recover")
        if not isinstance(draft.data["recover"], dict):
            raise RecipeError.at(str(recipe), "recover", "expected the form {use: lora, with: {epochs: 2}}.")
    path = draft.put_model("CHECKPOINT", checkpoint, "--pruned_model")
    method = draft.take("--finetune_method")
    draft.set("recover.use", method or draft.data.get("recover", {}).get("use", "lora"), "--finetune_method")
    lora_only(draft, draft.data["recover"]["use"])
    for key, flags in _SETS.items():
        draft.put(f"recover.with.{key}", *flags)
    draft.put("device", "--device")
    model = expanded(path)
    model = model if model.name else model.absolute()
    beside = str(model.with_name(f"{model.name}-finetuned")) if model.name else None
    draft.put("output", "--output_dir", "--output", default=beside)
    return draft


def show(report: dict[str, Any], directory: Path, as_json: bool) -> None:
    """The report: as it is in report.json, or the perplexity on text that was held out, and where the model is."""
    from hgsp_core.report.tables import metric_value, percent

    if as_json:
        print_json(report)
        return
    console = stdout()
    if held_out := (report["recovery"] or {}).get("held_out_perplexity"):
        before, after = (metric_value(held_out[side]) for side in ("before", "after"))
        change = percent(held_out["after"] / held_out["before"] - 1)
        console.print(f"Perplexity on held-out data: {before} before, {after} after ({change})")
    console.print(f"Result: {directory}")
    console.print("Load it with:", *loading_lines(directory / "model"), sep="\n  ")
