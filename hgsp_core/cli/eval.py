"""`hgsp eval`: measure a model, alone or against its original."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hgsp_core.cli.draft import Draft, as_yaml
from hgsp_core.cli.flags import Flag, Given, Panel, takes
from hgsp_core.cli.options import Json, PrintRecipe, Quiet, path_option, set_option
from hgsp_core.cli.origin import names, texts
from hgsp_core.cli.show import output as stdout
from hgsp_core.cli.show import plain_table, print_json
from hgsp_core.errors import FlagError

PANEL = Panel(
    "Measurements",
    (
        Flag("--model_path", str, "Alias of MODEL."),
        Flag("--dataset", str, "Comma-separated texts for perplexity; none disables perplexity.", "wikitext2"),
        Flag("--seq_len", int, "Tokens per window.", "128"),
        Flag("--stride", int, "Tokens between the starts of consecutive windows.", "no overlap"),
        Flag("--tasks", str, "Comma-separated lm-eval tasks: boolq,piqa.", "none"),
        Flag("--eval_tasks", str, "Alias of --tasks."),
        Flag("--max_samples", int, "Number of windows per text and documents per task, from the first.", "all"),
        Flag("--num_samples", int, "Alias of --max_samples."),
        Flag("--batch_size", int, "Windows or documents per batch; affects cost, never the result.", "8"),
        Flag("--efficiency", bool, "Also measure inference time, memory, KV cache and MACs."),
        Flag("--dtype", str, "dtype to compute in: float32, bfloat16, float16.", "as MODEL is stored"),
        Flag("--device", str, "auto, cpu, cuda or cuda:N.", "auto"),
    ),
)


@takes(PANEL)
def evaluate(
    given: Given,
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Run directory, Hugging Face directory or hub id.", show_default=False),
    ] = None,
    dense: Annotated[
        str | None,
        typer.Option("--dense", metavar="MODEL", help="Also measure this model and show the ratio of the two."),
    ] = None,
    recipe: Annotated[
        Path | None, path_option("--recipe", metavar="FILE", help="Measure the 'evaluate' part of this recipe.")
    ] = None,
    settings: Annotated[list[str] | None, set_option("Set any parameter: --set evaluate.0.with.seq_len=256.")] = None,
    output: Annotated[
        Path | None, path_option("--output", "-o", metavar="FILE", help="Write the result as JSON; must not exist.")
    ] = None,
    print_recipe: PrintRecipe = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure perplexity, task accuracy and efficiency of a model, alone or against the original.

    Example: `hgsp eval results/first --dense meta-llama/Meta-Llama-3-8B --dataset wikitext2,ptb --tasks boolq,piqa`

    Reads the models, the texts and the tasks. Writes only the file of `--output`.
    """
    for setting in settings or ():
        if not setting.startswith("evaluate"):
            raise FlagError.other_key(setting, "evaluate", "evaluate.0.with.seq_len=256")
    draft = draft_of(given, model, recipe, output)
    checked = draft.recipe(settings)
    if print_recipe:
        typer.echo(as_yaml(checked, "evaluate"), nl=False)
        return
    if not checked.evaluate:
        raise FlagError.nothing_to_measure()
    from hgsp_core.cli.console import terminal

    with terminal(quiet) as monitor:
        from hgsp_core.evaluate.checkpoint import evaluate_checkpoint

        result = evaluate_checkpoint(
            checked.model.path,
            checked.evaluate,
            monitor,
            dtype=checked.model.dtype,
            device=checked.device,
            dense=dense,
            output=output,
            seed=checked.calibrate.seed,
        )
    show(result, output, as_json)


def draft_of(given: Given, model: str | None, recipe: Path | None, output: Path | None) -> Draft:
    """A recipe with the model to measure and the measurements as its 'evaluate' part."""
    draft = Draft("hgsp eval", given)
    draft.put_model("MODEL", model, "--model_path")
    draft.put("model.dtype", "--dtype")
    draft.put("device", "--device")
    draft.set("output", str(output or "-"))
    if recipe is not None:
        draft.load(recipe, "evaluate")
        more = [flag for flag in given if flag not in ("--model_path", "--dtype", "--device")]
        if more:
            why = "the recipe defines the measurements; change it with --set KEY=VALUE"
            raise FlagError.excludes(more[0], "--recipe", why)
    else:
        draft.set("evaluate", measurements(draft))
    return draft


def measurements(draft: Draft) -> list[dict[str, Any]]:
    """`evaluate`."""
    wanted: list[dict[str, Any]] = []
    given, tasks = draft.take("--dataset") or "wikitext2", draft.take("--tasks", "--eval_tasks")
    if given != "none":
        wanted.append({"use": "perplexity", "with": {"datasets": texts(given), **_sizes(draft, "max_windows")}})
        for flag in ("--seq_len", "--stride"):
            if (value := draft.take(flag)) is not None:
                wanted[0]["with"][flag.removeprefix("--")] = value
    if tasks is not None:
        wanted.append({"use": "lm_eval", "with": {"tasks": names(tasks), **_sizes(draft, "limit")}})
    if draft.take("--efficiency"):
        wanted.append({"use": "efficiency"})
    return wanted


def _sizes(draft: Draft, limit: str) -> dict[str, int]:
    """The flags for the amount and the batch size; `limit` is the parameter of the amount."""
    sizes = {limit: draft.take("--max_samples", "--num_samples"), "batch_size": draft.take("--batch_size")}
    return {key: value for key, value in sizes.items() if value is not None}


def show(result: dict[str, Any], output: Path | None, as_json: bool) -> None:
    """The result: as JSON, or as a table, of two models the ratio first."""
    from hgsp_core.report.tables import evaluation

    if as_json:
        print_json(result)
        return
    stdout().print(plain_table(*evaluation(result)))
    if output is not None:
        stdout().print(f"Result: {output}")
