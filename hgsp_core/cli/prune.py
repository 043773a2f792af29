"""`hgsp prune`: a pruning run by flags instead of a recipe, as the research scripts were called."""

from __future__ import annotations

from hgsp_core.cli import origin
from hgsp_core.cli.allocation import allocate
from hgsp_core.cli.draft import Draft
from hgsp_core.cli.flags import Flag, Given, Panel, takes
from hgsp_core.cli.options import Cache, Json, Quiet, Settings
from hgsp_core.errors import FlagError

SIZE = Panel(
    "Ratio and strategy",
    (
        Flag("--pruning_ratio", float, "Share of all parameters to remove, 0..1.", "0.2"),
        Flag(
            "--pruning_strategy",
            str,
            "global: one ranking of all units (allocator hgsp); inverse, proportional: per-layer rates from layer importance "
            "(layerwise); uniform: the same rate in every layer.",
            "global, or the strategy that takes all given flags",
        ),
        Flag(
            "--pruning_distribution",
            str,
            "Split of the budget between attention and MLPs: 5:5, 10:0, 0:10.",
            "one shared budget",
        ),
        Flag("--prune_mlp", bool, "Prune MLPs too; --no-prune_mlp is 10:0.", "prune_mlp", off=True),
        Flag("--iterative_steps", int, "Rounds of scoring and removing.", "1"),
    ),
)
GLOBAL = Panel(
    "One ranking of all units (global)",
    (
        Flag("--temperature", float, "Weight of the importance of layers and blocks; 0 = ignore it.", "1.0"),
        Flag(
            "--tau",
            str,
            "Threshold: less important layers are gated by their own importance, others by their blocks': a number, auto, inf.",
            "auto",
        ),
        Flag("--epsilon", float, "Remove a layer entirely below this kept share.", "0.15"),
        Flag("--global_pruning", bool, "Rank by unit scores alone: temperature 0 and epsilon 0, unless given."),
    ),
)
BY_LAYER = Panel(
    "Per-layer rates (inverse, proportional), and limits of every strategy except uniform",
    (
        Flag("--importance_weight", float, "Exponent of a layer's relative importance (inverse, proportional).", "1.5"),
        Flag("--layer_min_pruning_rate", float, "Minimum rate of each layer, as a share of its parameters.", "0"),
        Flag("--layer_max_pruning_rate", float, "Maximum rate of each layer, as a share of its parameters.", "1"),
        Flag("--freeze_first_n_layers", int, "Number of first layers that are not pruned.", "0"),
        Flag("--freeze_last_n_layers", int, "Number of last layers that are not pruned.", "0"),
    ),
)
RANGE = Panel(
    "Range of layers to prune",
    (
        Flag("--layer_start", int, "Start of the range (inclusive), counted from 0.", "0"),
        Flag("--layer_end", int, "End of the range (exclusive).", "all"),
        Flag("--block_attention_layer_start", int, "Start of the range for attention only (uniform).", "0"),
        Flag("--block_attention_layer_end", int, "End of the range for attention only (uniform).", "all"),
        Flag("--block_mlp_layer_start", int, "Start of the range for MLPs only (uniform).", "0"),
        Flag("--block_mlp_layer_end", int, "End of the range for MLPs only (uniform).", "all"),
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
        Flag("--head_importance_samples", int, "Alias of --nsamples: all methods share one calibration set."),
        Flag("--taylor_seq_len", int, "Alias of --seq_len."),
        Flag("--gradient_batch_size", int, "Windows per batch; with taylor_2nd also windows per gradient.", "4"),
        Flag("--use_gradient_checkpointing", bool, "Recompute activations instead of keeping them: less memory."),
        Flag("--enable_grad_norm", bool, "Normalize scores across layers and blocks."),
        Flag("--norm_method", str, "Normalization: log, minmax, zscore or sqrt; needs --enable_grad_norm.", "log"),
    ),
)
LAYERS = Panel(
    "Importance of layers and blocks",
    (
        Flag("--layer_importance_method", str, "removal, activation or similarity.", "removal"),
        Flag("--layer_importance_samples", int, "Windows used to measure removal.", "50"),
        Flag(
            "--layer_importance_config",
            str,
            "Read importance from the layer_importance.json of a run instead of measuring it.",
            metavar="FILE",
        ),
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
    """Prune a model by flags, which are turned into a recipe.

    Example: `hgsp prune --base_model meta-llama/Meta-Llama-3-8B --pruning_ratio 0.2 --output_name llama3-20`

    Example: `hgsp prune --base_model models/pydoc-llama --dataset pydoc --print-recipe > recipe.yaml`

    A recipe has more keys than there are flags (`hgsp recipe init`); `--set KEY=VALUE` sets any of them. For example,
    `--set reconstruct.use=least-squares` repairs the kept weights and is recommended.

    The old flag names of the research scripts still work, with a warning.

    Reads the model, which is never modified, and the calibration text. Writes the run directory, like `hgsp run`.
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
