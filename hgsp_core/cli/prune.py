"""`hgsp prune`: a pruning run by flags instead of a recipe, as the research scripts were called."""

from __future__ import annotations

from hgsp_core.cli import origin
from hgsp_core.cli.allocation import allocate
from hgsp_core.cli.draft import Draft
from hgsp_core.cli.flags import Flag, Given, Panel, takes
from hgsp_core.cli.options import Cache, Json, Quiet, Settings
from hgsp_core.errors import FlagError

SIZE = Panel(
    "How much goes, and how it is shared out",
    (
        Flag("--pruning_ratio", float, "Share of all parameters to remove, 0..1.", "0.2"),
        Flag(
            "--pruning_strategy",
            str,
            "global: all units in one ranking (allocator hgsp); inverse, proportional: a rate for each layer from its importance "
            "(layerwise); uniform: the same rate in every layer.",
            "global, or what takes all flags given",
        ),
        Flag(
            "--pruning_distribution",
            str,
            "Shares of attention and MLPs in what goes: 5:5, 10:0, 0:10.",
            "one budget for both",
        ),
        Flag("--prune_mlp", bool, "Prune MLPs too; --no-prune_mlp is 10:0.", "prune_mlp", off=True),
        Flag("--iterative_steps", int, "Times to score, remove a part and score again.", "1"),
    ),
)
GLOBAL = Panel(
    "One ranking of all units (global)",
    (
        Flag("--temperature", float, "How much the importance of layers and blocks counts; 0 = not at all.", "1.0"),
        Flag(
            "--tau",
            str,
            "Layers of less importance are gated by it, others by their blocks': a number, auto, inf.",
            "auto",
        ),
        Flag("--epsilon", float, "A layer of which less than this share stays goes whole.", "0.15"),
        Flag(
            "--global_pruning",
            bool,
            "Rank by the units' scores alone: temperature 0 and epsilon 0, unless they are given.",
        ),
    ),
)
BY_LAYER = Panel(
    "A rate for each layer (inverse, proportional), and limits of all but uniform",
    (
        Flag("--importance_weight", float, "Exponent of a layer's relative importance (inverse, proportional).", "1.5"),
        Flag("--layer_min_pruning_rate", float, "Share of its parameters that each layer loses at the least.", "0"),
        Flag("--layer_max_pruning_rate", float, "Share of its parameters that a layer loses at the most.", "1"),
        Flag("--freeze_first_n_layers", int, "Layers at the input that stay whole.", "0"),
        Flag("--freeze_last_n_layers", int, "Layers at the output that stay whole.", "0"),
    ),
)
RANGE = Panel(
    "Layers that may be pruned, from start up to but not including end",
    (
        Flag("--layer_start", int, "First layer, counted from 0.", "0"),
        Flag("--layer_end", int, "Layer behind the last.", "all"),
        Flag("--block_attention_layer_start", int, "The same for attention alone (uniform).", "0"),
        Flag("--block_attention_layer_end", int, "The same for attention alone (uniform).", "all"),
        Flag("--block_mlp_layer_start", int, "The same for MLPs alone (uniform).", "0"),
        Flag("--block_mlp_layer_end", int, "The same for MLPs alone (uniform).", "all"),
    ),
)
UNITS = Panel(
    "Importance of units: attention groups and MLP channels",
    (
        Flag(
            "--importance_method",
            str,
            "taylor, taylor_2nd, wanda, magnitude, or another scorer (hgsp plugins list).",
            "taylor",
        ),
        Flag("--head_importance_samples", int, "The same as --nsamples: all methods see one token set."),
        Flag("--taylor_seq_len", int, "The same as --seq_len."),
        Flag("--gradient_batch_size", int, "Windows at a time; in taylor_2nd also those of one gradient.", "4"),
        Flag("--use_gradient_checkpointing", bool, "Compute activations twice instead of keeping them: less memory."),
        Flag("--enable_grad_norm", bool, "Bring the scores of layers and blocks to one scale."),
        Flag("--norm_method", str, "How: log, minmax, zscore or sqrt; needs --enable_grad_norm.", "log"),
    ),
)
LAYERS = Panel(
    "Importance of layers and blocks",
    (
        Flag("--layer_importance_method", str, "removal, activation or similarity.", "removal"),
        Flag("--layer_importance_samples", int, "Windows that removal is measured on.", "50"),
        Flag("--layer_importance_config", str, "layer_importance.json of a run, instead of measuring.", metavar="FILE"),
    ),
)
PANELS = (
    origin.MODEL,
    SIZE,
    GLOBAL,
    BY_LAYER,
    RANGE,
    UNITS,
    LAYERS,
    origin.CALIBRATION,
    origin.FINETUNING,
    origin.RESULT,
)


@takes(*PANELS)
def prune(
    given: Given,
    settings: Settings = None,
    print_recipe: origin.PrintRecipe = False,
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Prune a model by flags: writes a recipe from them and runs it.

    Example: `hgsp prune --base_model meta-llama/Meta-Llama-3-8B --pruning_ratio 0.2 --output_name llama3-20`

    Example: `hgsp prune --base_model models/pydoc-llama --dataset pydoc --print-recipe > recipe.yaml`

    A recipe can say more than flags (`hgsp recipe init`); `--set KEY=VALUE` reaches all of it, such as
    `--set reconstruct.use=least-squares`, which repairs what stays and is worth having.

    Flags of the research scripts under their old names are taken too, with a warning.

    Reads the model, which is never changed, and the calibration text. Writes the directory of the run, as `hgsp run`.
    """
    draft = draft_of(given)
    origin.carry_out(draft, settings, print_recipe, cache, quiet, as_json)


def draft_of(given: Given) -> Draft:
    """The recipe that the flags stand for."""
    draft = Draft("hgsp prune", given)
    draft.set("reconstruct.use", "none")
    origin.model(draft)
    origin.calibrate(draft)
    score(draft)
    normalize(draft)
    strategy = allocate(draft)
    draft.put("iterative_steps", "--iterative_steps")
    origin.finetune(draft)
    origin.evaluate(draft)
    origin.output(draft, strategy, origin.percent(draft.data["allocate"]["with"]["ratio"]))
    return draft


def score(draft: Draft) -> None:
    """`score`, and what its sweep costs."""
    draft.put("score.use", "--importance_method", default="taylor")
    draft.put("calibrate.batch_size", "--gradient_batch_size", default=4)
    if draft.data["score"]["use"] == "taylor_2nd":
        draft.put("score.with.batch", "--gradient_batch_size")
    if draft.take("--use_gradient_checkpointing"):
        draft.set("memory", "device", "--use_gradient_checkpointing")


def normalize(draft: Draft) -> None:
    """`normalize`."""
    method = draft.take("--norm_method")
    if draft.take("--enable_grad_norm"):
        draft.set("normalize", [{"use": method or "log"}])
    elif method is not None:
        raise FlagError.needs("--norm_method", "--enable_grad_norm")
