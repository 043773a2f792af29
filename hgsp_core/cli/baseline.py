"""`hgsp baseline`: published methods by the flags of the scripts that ran them."""

from __future__ import annotations

from typing import Any

import typer

from hgsp_core.cli import origin
from hgsp_core.cli.allocation import shares
from hgsp_core.cli.draft import Draft, model_config
from hgsp_core.cli.flags import Flag, FlagCommand, Given, Panel, takes
from hgsp_core.cli.options import Cache, Json, Quiet, Settings
from hgsp_core.errors import FlagError
from hgsp_core.files.paths import expanded

app = typer.Typer(
    name="baseline",
    help="""Run published pruning methods by flags, on the calibration set of `hgsp prune` unless a method defines its own.

    Example: `hgsp baseline wanda --base_model meta-llama/Meta-Llama-3-8B --pruning_ratio 0.2`

    More baselines are available as recipes: see recipes/baselines and `hgsp plugins list`.""",
    no_args_is_help=True,
)

_RATIO = Flag("--pruning_ratio", float, "Share of all parameters to remove, 0..1.", "0.2")
SIZE = Panel("Ratio", (_RATIO,))
SHARED = Panel(
    "Ratio and range of layers",
    (
        _RATIO,
        Flag(
            "--pruning_distribution",
            str,
            "Split of the budget between attention and MLPs: 5:5, 10:0, 0:10.",
            "one shared budget",
        ),
        Flag("--prune_mlp", bool, "Prune MLPs too; --no-prune_mlp is 10:0.", "prune_mlp", off=True),
        Flag("--layer_start", int, "Start of the range (inclusive), counted from 0.", "0"),
        Flag("--layer_end", int, "End of the range (exclusive).", "all"),
    ),
)
LAYERS = Panel("Ratio", (_RATIO, Flag("--n_remove_layers", int, "Layers to remove; instead of --pruning_ratio.")))
COMMON = (origin.CALIBRATION, origin.FINETUNING, origin.RESULT)

#: the method's own calibration: SlimGPT reads 64 windows, 128k tokens at the most, one window at a time
SLIMGPT_SAMPLES, SLIMGPT_SEQ_LEN = 64, 2048
#: ShortGPT reads a text by windows that half overlap
SHORTGPT_SEQ_LEN, SHORTGPT_STRIDE = 512, 256


@app.command(cls=FlagCommand)
@takes(origin.MODEL, SHARED, *COMMON)
def wanda(
    given: Given,
    settings: Settings = None,
    print_recipe: origin.PrintRecipe = False,
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Wanda (Sun et al. 2023): |W| times the norm of its input, summed over a unit; the same rate in every layer.

    Example: `hgsp baseline wanda --base_model models/pydoc-llama --dataset pydoc --pruning_ratio 0.2`

    Reads the model, which is never modified, and the calibration text. Writes the run directory, like `hgsp run`.
    """
    draft = uniform(Draft("hgsp baseline wanda", given), "wanda")
    origin.carry_out(draft, settings, print_recipe, cache, quiet, as_json)


@app.command(cls=FlagCommand)
@takes(origin.MODEL, SHARED, *COMMON)
def magnitude(
    given: Given,
    settings: Settings = None,
    print_recipe: origin.PrintRecipe = False,
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Magnitude: removes the units with the smallest weights, at the same rate in every layer. Needs no calibration set.

    Example: `hgsp baseline magnitude --base_model models/pydoc-llama --dataset pydoc --pruning_ratio 0.2`

    Reads the model, which is never modified, and the text that perplexity is measured on. Writes the run directory, like
    `hgsp run`.
    """
    draft = uniform(Draft("hgsp baseline magnitude", given), "magnitude")
    unread = [f.name for f in origin.CALIBRATION.flags if f.name in given and f.name not in ("--dataset", "--seq_len")]
    if unread:
        draft.notes.append(
            f"{', '.join(unread)}: magnitude reads no calibration text; what follows it (--set reconstruct...) may."
        )
    origin.carry_out(draft, settings, print_recipe, cache, quiet, as_json)


@app.command(cls=FlagCommand)
@takes(origin.MODEL, SIZE, *COMMON)
def slimgpt(
    given: Given,
    settings: Settings = None,
    print_recipe: origin.PrintRecipe = False,
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """SlimGPT (Ling et al. 2024): Optimal Brain Surgery on groups of columns; rates grow with the logarithm of depth.

    Example: `hgsp baseline slimgpt --base_model models/pydoc-llama --dataset pydoc --seq_len 128`

    Defines its own calibration set: 64 windows of 2048 tokens, or of the model's context length if that is shorter.
    Requires the plugin hgsp-baselines.

    Reads the model, which is never modified, and the calibration text. Writes the run directory, like `hgsp run`.
    """
    draft = Draft("hgsp baseline slimgpt", given)
    start(draft, samples=SLIMGPT_SAMPLES, seq_len=_context(given.get("--base_model"), SLIMGPT_SEQ_LEN))
    draft.set("calibrate.batch_size", 1)
    draft.set("score.use", "magnitude")  # the reconstructor chooses the units
    draft.set("allocate.use", "slimgpt")
    draft.put("allocate.with.ratio", "--pruning_ratio", default=0.2)
    draft.set("reconstruct.use", "slimgpt")
    finish(draft, "slimgpt")
    origin.carry_out(draft, settings, print_recipe, cache, quiet, as_json)


@app.command(cls=FlagCommand)
@takes(origin.MODEL, LAYERS, *COMMON)
def shortgpt(
    given: Given,
    settings: Settings = None,
    print_recipe: origin.PrintRecipe = False,
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """ShortGPT (Men et al. 2024): removes the layers that change the direction of the residual stream least.

    Example: `hgsp baseline shortgpt --base_model models/pydoc-llama --dataset pydoc --n_remove_layers 2`

    Defines its own calibration set: windows of 512 tokens (--seq_len) that start 256 tokens apart (--stride).

    Reads the model, which is never modified, and the calibration text. Writes the run directory, like `hgsp run`.
    """
    draft = Draft("hgsp baseline shortgpt", given)
    start(draft, seq_len=SHORTGPT_SEQ_LEN, stride=None if "--seq_len" in given else SHORTGPT_STRIDE)
    draft.set("score.use", "magnitude")  # scores of units play no part; these need no data
    draft.set("prior.use", "similarity")
    draft.set("allocate.use", "depth")
    layers, ratio = draft.take("--n_remove_layers"), draft.take("--pruning_ratio")
    if layers is not None:
        if ratio is not None:
            raise FlagError.excludes("--n_remove_layers", "--pruning_ratio", "both set how much to remove")
        draft.set("allocate.with.n_remove_layers", layers, "--n_remove_layers")
        finish(draft, "shortgpt", f"{layers}-layers")
    else:
        draft.put("allocate.with.ratio", "--pruning_ratio", default=0.2)
        finish(draft, "shortgpt")
    origin.carry_out(draft, settings, print_recipe, cache, quiet, as_json)


def uniform(draft: Draft, scorer: str) -> Draft:
    """A method that only says which units of a layer go."""
    start(draft)
    draft.set("score.use", scorer)
    draft.set("allocate.use", "uniform")
    draft.put("allocate.with.ratio", "--pruning_ratio", default=0.2)
    for kind in ("attention", "mlp"):
        draft.put(f"allocate.with.{kind}.layer_start", "--layer_start")
        draft.put(f"allocate.with.{kind}.layer_end", "--layer_end")
    shares(draft)
    finish(draft, scorer)
    return draft


def start(draft: Draft, **calibration: Any) -> None:
    origin.model(draft)
    origin.calibrate(draft, **calibration)
    draft.set("reconstruct.use", "none")


def finish(draft: Draft, method: str, size: str = "") -> None:
    origin.finetune(draft)
    origin.evaluate(draft)
    origin.output(draft, method, size or origin.percent(draft.data["allocate"]["with"]["ratio"]))


def _context(model: str | None, most: int) -> int:
    """The model's context in tokens, up to `most`; a model that is not in a local directory is not looked at."""
    if model is None or not expanded(model).is_dir():
        return most
    return min(most, model_config(model).get("max_position_embeddings") or most)
