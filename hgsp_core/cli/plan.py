"""`hgsp plan`: what a run would do."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Any

from hgsp_core.cli.options import Cache, Json, Output, Quiet, RecipeFile, Settings, open_store, read_recipe
from hgsp_core.cli.show import headline_table, plain_table, print_json, print_lines, print_reused, removed_line
from hgsp_core.cli.show import output as stdout

if TYPE_CHECKING:
    from rich.table import Table

    from hgsp_core.pipeline import Forecast


def plan(
    recipe: RecipeFile,
    settings: Settings = None,
    output: Output = None,
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show what a run would remove and the cost of the pruned model, without pruning it.

    Example: `hgsp plan recipe.yaml --set allocate.with.ratio=0.3`

    Reads the recipe, the model and the calibration text.

    Writes only to the store, from which a later `hgsp run` reuses the measurements. Forecasts parameters, MACs,
    size and KV cache, and with `score: {use: curvature}` the KL divergence from the original; perplexity is known only
    after pruning.
    """
    from hgsp_core.cli.console import terminal

    read = read_recipe(recipe, settings, output)
    with terminal(quiet) as monitor:
        from hgsp_core.pipeline import plan as carry_out

        result = carry_out(read, monitor, open_store(cache))
    show(result, as_json)


def show(result: Forecast, as_json: bool) -> None:
    """The forecast: as JSON, or the headline and the kept units of each layer."""
    if as_json:
        print_json(as_data(result))
        return
    console = stdout()
    console.print(layer_table(result))
    console.print()
    console.print(headline_table({"before": result.before, "after": result.after}))
    console.print(removed_line(result.before, result.after))
    if (kl := result.decision.predicted_kl) is not None:
        console.print(predicted_line(kl))
    print_lines(console, "Note", result.decision.plan.notes)
    print_reused(console, result.decision.reused)


def predicted_line(kl: float) -> str:
    """What the scores forecast of the quality. kl: nats per token."""
    return f"Predicted: KL divergence {kl:.3f} nats per token from the original; perplexity × {exp(kl):.2f}."


def as_data(result: Forecast) -> dict[str, Any]:
    """before, after, the predicted KL divergence, what was reused, and the plan as plan.json has it."""
    source = result.decision.source
    plan_data = result.decision.plan.to_json(source.layout, source.name, source.fingerprint)
    return {
        "before": result.before,
        "after": result.after,
        "predicted_kl": result.decision.predicted_kl,
        "reused": list(result.decision.reused),
        "plan": plan_data,
    }


def layer_table(result: Forecast) -> Table:
    """Kept units of each layer's blocks."""
    plan_ = result.decision.plan
    layers = plan_.layers
    axes = [a.name for a in result.decision.source.layout.architecture.axes if any(a.name in layer for layer in layers)]
    rows = (
        (str(index), *(f"{len(layer[axis].kept)} / {layer[axis].of}" if axis in layer else "-" for axis in axes))
        for index, layer in enumerate(plan_.layers)
    )
    return plain_table(("layer", *(f"{axis} kept" for axis in axes)), rows, left=0)
