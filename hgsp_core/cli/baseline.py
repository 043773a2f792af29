"""`hgsp baseline`: published methods by the flags of the scripts that ran them."""

from __future__ import annotations

from typing import Any

import typer

from hgsp_core.cli import origin
from hgsp_core.cli.allocation import shares
from hgsp_core.cli.draft import Draft, model_config
from hgsp_core.cli.flags import Flag, FlagCommand, Given, Panel
from hgsp_core.errors import FlagError
from hgsp_core.files.paths import expanded

app = typer.Typer(
    name="baseline",
    help="""Run published pruning methods by flags, on the calibration set of `hgsp prune` unless a method defines its own.

    Example: `hgsp baseline wanda --base_model meta-llama/Meta-Llama-3-8B --pruning_ratio 0.2`

    More baselines are available as recipes: see recipes/baselines and `hgsp plugins list`.""",
    no_args_is_help=True,
)

SIZE = Panel("Ratio", (origin.RATIO,))
SHARED = Panel("Ratio and range of layers", (origin.RATIO, *origin.SPLIT, *origin.RANGE))
LAYERS = Panel("Ratio", (origin.RATIO, Flag("--n_remove_layers", int, "Layers to remove; instead of --pruning_ratio.")))
COMMON = (origin.CALIBRATION, origin.FINETUNING, origin.RESULT)

#: the method's own calibration: SlimGPT reads 64 windows, at most 128k tokens, one window at a time
SLIMGPT_SAMPLES, SLIMGPT_SEQ_LEN = 64, 2048
#: ShortGPT reads a text by windows that half overlap
SHORTGPT_SEQ_LEN, SHORTGPT_STRIDE = 512, 256


@app.command(cls=FlagCommand)
@origin.recipe_command(origin.MODEL, SHARED, *COMMON)
def wanda(given: Given) -> Draft:
    """Wanda (Sun et al. 2023): |W| times the norm of its input, summed over a unit; the same rate in every layer.

    Example: `hgsp baseline wanda --base_model models/pydoc-llama --dataset pydoc --pruning_ratio 0.2`

    Reads the model, which is never modified, and the calibration text. Writes the run directory, like `hgsp run`.
    """
    return uniform(Draft("hgsp baseline wanda", given), "wanda")


@app.command(cls=FlagCommand)
@origin.recipe_command(origin.MODEL, SHARED, *COMMON)
def magnitude(given: Given) -> Draft:
    """Magnitude: removes the units with the smallest weights, at the same rate in every layer. Needs no calibration set.

    Example: `hgsp baseline magnitude --base_model models/pydoc-llama --dataset pydoc --pruning_ratio 0.2`

    Reads the model, which is never modified, and the text that perplexity is measured on. Writes the run directory, like
    `hgsp run`.
    """
    draft = uniform(Draft("hgsp baseline magnitude", given), "magnitude")
    unread = [f.name for f in origin.CALIBRATION.flags if f.name in given and f.name not in ("--dataset", "--seq_len")]
    if unread:
        why = "magnitude reads no calibration text; what follows it (--set reconstruct...) may."
        draft.notes.append(f"{', '.join(unread)}: {why}")
    return draft


@app.command(cls=FlagCommand)
@origin.recipe_command(origin.MODEL, SIZE, *COMMON)
def slimgpt(given: Given) -> Draft:
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
    return finish(draft, "slimgpt")


@app.command(cls=FlagCommand)
@origin.recipe_command(origin.MODEL, LAYERS, *COMMON)
def shortgpt(given: Given) -> Draft:
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
        return finish(draft, "shortgpt", f"{layers}-layers")
    draft.put("allocate.with.ratio", "--pruning_ratio", default=0.2)
    return finish(draft, "shortgpt")


def uniform(draft: Draft, scorer: str) -> Draft:
    """A method that only chooses which units of a layer to remove."""
    start(draft)
    draft.set("score.use", scorer)
    draft.set("allocate.use", "uniform")
    draft.put("allocate.with.ratio", "--pruning_ratio", default=0.2)
    for kind in ("attention", "mlp"):
        draft.put(f"allocate.with.{kind}.layer_start", "--layer_start")
        draft.put(f"allocate.with.{kind}.layer_end", "--layer_end")
    shares(draft)
    return finish(draft, scorer)


def start(draft: Draft, **calibration: Any) -> None:
    origin.model(draft)
    origin.calibrate(draft, **calibration)
    draft.set("reconstruct.use", "none")


def finish(draft: Draft, method: str, size: str = "") -> Draft:
    origin.finetune(draft)
    origin.evaluate(draft)
    origin.output(draft, method, size)
    return draft


def _context(model: str | None, most: int) -> int:
    """The model's context in tokens, up to `most`; a model that is not in a local directory is not looked at."""
    if model is None or not expanded(model).is_dir():
        return most
    return min(most, model_config(model).get("max_position_embeddings") or most)
