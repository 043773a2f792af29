"""`hgsp prune`: a pruning run by flags instead of a recipe, as the research scripts were called."""

from __future__ import annotations

from hgsp_core.cli import origin
from hgsp_core.cli.allocation import allocate
from hgsp_core.cli.draft import Draft
from hgsp_core.cli.flags import Flag, Given, Panel
from hgsp_core.errors import FlagError

SIZE = Panel(
    "Ratio and strategy",
    (
        origin.RATIO,
        Flag(
            "--pruning_strategy",
            str,
            "global: one ranking of all units (allocator hgsp); inverse, proportional: per-layer rates from layer importance "
            "(layerwise); uniform: the same rate in every layer.",
            "global, or the strategy that takes all given flags",
        ),
        *origin.SPLIT,
        Flag("--iterative_steps", int, "Rounds of scoring and removing.", "auto"),
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
        *origin.RANGE,
        Flag("--block_attention_layer_start", int, "Start of the range for attention only (uniform).", "0"),
        Flag("--block_attention_layer_end", int, "End of the range for attention only (uniform).", "all"),
        Flag("--block_mlp_layer_start", int, "Start of the range for MLPs only (uniform).", "0"),
        Flag("--block_mlp_layer_end", int, "End of the range for MLPs only (uniform).", "all"),
    ),
)
UNITS = Panel(
    "Importance of units: attention groups and MLP channels",
    (
        Flag("--importance_method", str, "taylor, taylor_2nd, wanda, magnitude, or another scorer.", "taylor"),
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
        Flag("--layer_importance_config", str, "Read it from the layer_importance.json of a run.", metavar="FILE"),
    ),
)
OWN = (SIZE, GLOBAL, BY_LAYER, RANGE, UNITS, LAYERS)
PANELS = (origin.MODEL, *OWN, origin.CALIBRATION, origin.FINETUNING, origin.RESULT)


@origin.recipe_command(*PANELS)
def prune(given: Given) -> Draft:
    """Prune a model by flags, which are turned into a recipe.

    Example: `hgsp prune --base_model meta-llama/Meta-Llama-3-8B --pruning_ratio 0.2 --output_name llama3-20`

    Example: `hgsp prune --base_model models/pydoc-llama --dataset pydoc --print-recipe > recipe.yaml`

    A recipe has more keys than there are flags (`hgsp recipe init`); `--set KEY=VALUE` sets any of them. For example,
    `--set reconstruct.use=least-squares` repairs the kept weights and is recommended.

    The old flag names of the research scripts still work, with a warning.

    Reads the model, which is never modified, and the calibration text. Writes the run directory, like `hgsp run`.
    """
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
    origin.output(draft, strategy)
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
