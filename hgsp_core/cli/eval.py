"""`hgsp eval`: measure a model, alone or beside the one that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hgsp_core.cli.draft import Draft, as_yaml
from hgsp_core.cli.flags import Flag, Given, Panel, takes
from hgsp_core.cli.options import Json, Quiet
from hgsp_core.cli.origin import names
from hgsp_core.errors import FlagError
from hgsp_core.files.paths import expanded

PANEL = Panel(
    "What is measured",
    (
        Flag("--model_path", str, "The same as MODEL."),
        Flag("--dataset", str, "Texts that perplexity is measured on, with commas; none = no perplexity.", "wikitext2"),
        Flag("--seq_len", int, "Tokens of a window of text.", "128"),
        Flag("--stride", int, "Tokens from one window to the next, each predicted once.", "no overlap"),
        Flag("--tasks", str, "Tasks of lm-eval, with commas: boolq,piqa.", "none"),
        Flag("--eval_tasks", str, "The same as --tasks."),
        Flag("--max_samples", int, "Only the first so many windows of a text and documents of a task.", "all"),
        Flag("--num_samples", int, "The same as --max_samples."),
        Flag("--batch_size", int, "Windows or documents at a time; changes cost, never the result.", "8"),
        Flag("--efficiency", bool, "Measure time, memory, cache and MACs of running the model too."),
        Flag("--dtype", str, "Number type to compute in: float32, bfloat16, float16.", "as MODEL is stored"),
        Flag("--device", str, "auto, cpu, cuda or cuda:N.", "auto"),
    ),
)


@takes(PANEL)
def evaluate(
    given: Given,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="A run directory, a Hugging Face directory, or a hub id.", show_default=False
        ),
    ] = None,
    dense: Annotated[
        str | None,
        typer.Option("--dense", metavar="MODEL", help="Measure this model beside it, and show the ratio of the two."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            parser=expanded,
            metavar="FILE",
            help="Measure what the 'evaluate' part of this recipe says, instead of flags.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any parameter: --set evaluate.0.with.seq_len=256. May be repeated."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", parser=expanded, metavar="FILE", help="Write the result here as JSON; must not exist."
        ),
    ] = None,
    print_recipe: Annotated[
        bool,
        typer.Option(
            "--print-recipe", help="Print the 'evaluate' part of a recipe that this stands for, and do nothing."
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a model: perplexity, accuracy on tasks, efficiency. Pruned or not, alone or beside the original.

    Example: `hgsp eval results/first --dense meta-llama/Meta-Llama-3-8B --dataset wikitext2,ptb --tasks boolq,piqa`

    Reads the models, the texts and the tasks. Writes nothing but the file of `--output`.
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
    """A recipe whose model is the one to measure, and whose 'evaluate' part is what is measured."""
    draft = Draft("hgsp eval", given)
    draft.put("model.path", "--model_path", default=model)
    path = draft.data.get("model", {}).get("path")
    if path is None:
        raise FlagError.required("MODEL", "hgsp eval results/first")
    if model not in (None, path):
        raise FlagError.contradict(("MODEL", model), ("--model_path", path))
    draft.put("model.dtype", "--dtype")
    draft.put("device", "--device")
    draft.set("output", str(output or "-"))
    if recipe is not None:
        draft.load(recipe, "evaluate")
        more = [flag for flag in given if flag not in ("--model_path", "--dtype", "--device")]
        if more:
            raise FlagError.excludes(
                more[0], "--recipe", "the recipe says what is measured, and --set KEY=VALUE changes it"
            )
    else:
        draft.set("evaluate", measurements(draft))
    return draft


def measurements(draft: Draft) -> list[dict[str, Any]]:
    """`evaluate`, of the flags."""
    wanted: list[dict[str, Any]] = []
    texts, tasks = draft.take("--dataset") or "wikitext2", draft.take("--tasks", "--eval_tasks")
    if texts != "none":
        wanted.append({"use": "perplexity", "with": {"datasets": texts.split(","), **_sizes(draft, "max_windows")}})
        for flag in ("--seq_len", "--stride"):
            if (value := draft.take(flag)) is not None:
                wanted[0]["with"][flag.removeprefix("--")] = value
    if tasks is not None:
        wanted.append({"use": "lm_eval", "with": {"tasks": names(tasks), **_sizes(draft, "limit")}})
    if draft.take("--efficiency"):
        wanted.append({"use": "efficiency"})
    return wanted


def _sizes(draft: Draft, limit: str) -> dict[str, int]:
    """What the flags say about how much is measured, and how much of it at a time; `limit` is its parameter."""
    sizes = {limit: draft.take("--max_samples", "--num_samples"), "batch_size": draft.take("--batch_size")}
    return {key: value for key, value in sizes.items() if value is not None}


def show(result: dict[str, Any], output: Path | None, as_json: bool) -> None:
    """The result: as JSON, or as a table, of two models the ratio first."""
    from rich.table import Table

    from hgsp_core.cli.show import output as stdout
    from hgsp_core.cli.show import print_json
    from hgsp_core.report.tables import evaluation

    if as_json:
        print_json(result)
        return
    header, rows = evaluation(result)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = stdout()
    console.print(table)
    if output is not None:
        console.print(f"Result: {output}")
