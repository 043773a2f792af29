"""report.html: one run on one page, for readers who did not make it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from hgsp_core.report import heat, svg
from hgsp_core.report.contract import Finding
from hgsp_core.report.diagnosis import check_value, repair_options, repair_text
from hgsp_core.report.facts import RunFacts
from hgsp_core.report.page import (
    Section,
    beside,
    bullets,
    card,
    code,
    figure,
    folded,
    join,
    page,
    pairs,
    paragraph,
    table,
    tiles,
)
from hgsp_core.report.tables import HEADER, headline, metric_value, size

_TONES = {"critical": "bad", "high": "bad", "medium": "warn", "note": "plain"}

#: measures that are shown large: of each the first that was taken
_LARGE = ("parameters", "MACs per token", "KV cache per token", "perplexity", "accuracy", "decode tokens")

_WORDS = {
    "unit": "The smallest part that is removed: an attention group or an MLP channel.",
    "attention group": "One key-value head with all query heads that share it.",
    "MLP channel": "One row of gate_proj and up_proj with the matching column of down_proj.",
    "block": "The attention or the MLP of one layer. A layer has one of each.",
    "score": "How much a unit matters per parameter, as used by the allocation. Units with low scores are removed first.",
    "prior": "How much a layer or block matters, measured separately from its units.",
    "perplexity": "How uncertain the model is about a text; lower is better. 20 means a choice between 20 equally likely tokens.",
    "MACs per token": "Multiplications and additions that the model needs for each token.",
    "KV cache": "Memory that the model needs for each token it has read.",
    "calibration": "The text on which importance was measured.",
}


def run_page(run: RunFacts) -> str:
    """The whole document."""
    sections = [
        _headline(run),
        _findings(run),
        _layers(run),
        _importance(run),
        *_priors(run),
        _scales(run),
        *_recovery(run),
        _recipe(run),
        _calibration(run),
        _environment(run),
        Section("Words", pairs(_WORDS)),
    ]
    return page(run.title, _lead(run), sections)


def _lead(run: RunFacts) -> str:
    total, of_layers = run.removed
    text = (
        f"{run.plan.removed(run.layout):,} of {run.layout.parameters:,} parameters were removed: {total:.1%} of the model,  "
        f"{of_layers:.1%} of its layers."
    )
    for dataset, before in _mapping(run.report["before"].get("perplexity")).items():
        after = _mapping(run.report["after"].get("perplexity")).get(dataset)
        if isinstance(before, int | float) and isinstance(after, int | float):
            text += (
                f" Perplexity on {dataset} went from {metric_value(before)} to {metric_value(after)} (lower is better)."
            )
    return text


def _headline(run: RunFacts) -> Section:
    rows, found = [], headline(run.report)
    for row in found:
        share = math.nan if row.change is None else row.change + 1
        rows.append((*row.cells(), svg.share_bar(share, f"{row.measure.strip()}: {share:.1%} of before")))
    there = [row for row in found if row.change is not None]
    large = [next((row for row in there if row.measure.startswith(name)), None) for name in _LARGE]
    body = [
        tiles((row.measure, row.cells()[3], " → ".join(row.cells()[1:3])) for row in large if row),
        table((*HEADER, "of before"), rows, "Before and after; the dashed line is where it was."),
    ]
    if notes := run.report["notes"]:
        body.append(card("Notes of the run", "plain", bullets(notes)))
    if exports := run.report["exports"]:
        body.append(paragraph(f"Beside this page: {', '.join(exports)} (the pruned model)."))
    return Section("Before and after", join(body))


def _findings(run: RunFacts) -> Section:
    checks = [
        (
            c["check"],
            check_value(c),
            Markup('<span class="{}">{}</span>').format(*(("ok", "✓ yes") if c["ok"] else ("no", "✗ no"))),
        )
        for c in run.diagnosis["checks"]
    ]
    findings = run.diagnosis["findings"]
    before = [None, *(finding["repair"] for finding in findings)]
    cards = [_finding(finding, finding["repair"] in before[: i + 1]) for i, finding in enumerate(findings)]
    if not cards:
        cards = [card("No findings", "good", paragraph("No layer was pruned so much that other settings are needed."))]
    intro = "Whether some layers were pruned far more than others, which usually ruins a model, and what to change."
    return Section(
        "Findings", join([*cards, table(("", "this run", "healthy"), checks, "What a healthy run looks like")]), intro
    )


def _finding(finding: Finding, known: bool) -> Markup:
    """known: a finding above has the same repair."""
    body, repair = [paragraph(finding["text"])], finding["repair"]
    if repair and known:
        body.append(paragraph("The same recipe lines repair it."))
    elif repair:
        body.append(paragraph(repair_text(repair)))
        body.append(code(repair["recipe"].rstrip(), "lines for the recipe"))
        body.append(code(f"hgsp run recipe.yaml {repair_options(repair)} --output NEW", "the same as a command"))
    return card(f"{finding['title']} ({finding['severity']})", _TONES[finding["severity"]], *body)


def _layers(run: RunFacts) -> Section:
    names, figures = [str(layer.index) for layer in run.layers], []
    for i, axis in enumerate(run.axes):
        blocks = [layer.blocks.get(axis) for layer in run.layers]
        there = [b for b in blocks if b]
        share = sum(b.after for b in there) / sum(b.before for b in there)
        drawing = svg.bars(
            f"share of the {axis} parameters kept in each layer",
            names,
            [b.share if b else math.nan for b in blocks],
            series=i,
            top=1.0,
            titles=[
                f"layer {n}: {b.text()} units, {b.share:.1%} of the parameters kept" if b else ""
                for n, b in zip(names, blocks, strict=True)
            ],
            line=share,
            show=lambda value: f"{value:.0%}",
            x_label="layer",
        )
        kept, of = sum(b.kept for b in there), sum(b.of for b in there)
        caption = f"{axis}: {kept:,} of {of:,} units kept, {share:.1%} of the parameters (dashed)."
        figures.append(figure(drawing, caption))
    header, rows = run.layer_table()
    numbers = folded("The numbers", table(header, rows, "Units and parameters of each layer"))
    return Section(
        "What is kept of each layer",
        join([beside(figures), numbers]),
        "Colour is what is kept, grey is what was removed, × is a block removed entirely.",
    )


def _importance(run: RunFacts) -> Section:
    heats = {axis: heat.Heat.of(run, axis) for axis in run.axes}
    low, high = heat.bounds(list(heats.values()))
    names, height = [str(layer.index) for layer in run.layers], max(110, min(440, 18 * len(run.layers)))
    figures = []
    for axis, own in heats.items():
        drawing = svg.heat(
            f"importance of the {axis} units, one row per layer",
            names,
            heat.picture(own.values, low, high),
            own.removed.tolist(),
            height,
        )
        caption = (
            f"{axis}: one row per layer, least important units on the left. "
            "The units left of the white line were removed, or the same number of others if the repair reselected them."
        )
        figures.append(figure(drawing, caption))
    colours = Markup(
        '<p class="key">least, {} <img alt="dark to bright" src="data:image/png;base64,{}"> {}, most</p>'
    ).format(metric_value(low), base64.b64encode(heat.key()).decode("ascii"), metric_value(high))
    intro = f"Importance per parameter of every unit, measured by the scorer {run.recipe.score.use}. Bright units matter most."
    return Section("Which units matter", join([colours, beside(figures)]), intro)


def _priors(run: RunFacts) -> Iterator[Section]:
    series = run.prior_series()
    if not series:
        return
    names = [str(layer.index) for layer in run.layers]
    drawing = svg.dots(
        "importance of layers and blocks", names, series, x_label="layer", y_label=f"prior ({run.recipe.prior.use})"
    )
    intro = "How much each layer, its attention and its MLP matter. The allocation removes less of what matters more."
    yield Section("Importance of layers", figure(drawing, "Priors by layer.", svg.legend(series)), intro)


def _scales(run: RunFacts) -> Section:
    diagnosis, names = run.diagnosis, [str(layer.index) for layer in run.layers]
    series, what = run.scale_series(), diagnosis["source"]
    series = {name: [value if value > 0 else math.nan for value in values] for name, values in series.items()}
    drawing = svg.dots(f"size of the {what} of each layer", names, series, x_label="layer", y_label=f"absolute {what}")
    text = f"The largest layer mean is {metric_value(diagnosis['mean_ratio'])} times the smallest."
    return Section(
        f"Scale of the {what}",
        figure(drawing, f"By layer, {diagnosis['what']}. {text}", svg.legend(series)),
        "Layers of very different scales cannot be ranked together without a normalizer.",
    )


def _recovery(run: RunFacts) -> Iterator[Section]:
    if not (told := run.report["recovery"]):
        return
    losses = {float(step): loss for step, loss in _mapping(told.get("held_out_loss")).items()}
    body = [
        pairs(dict(_flat({name: value for name, value in told.items() if name != "held_out_loss" or len(losses) < 2})))
    ]
    if len(losses) > 1:
        course = [(step, loss, f"step {step:g}: {metric_value(loss)}") for step, loss in sorted(losses.items())]
        drawing = svg.points(
            "held-out loss by step", {"loss": course}, x_label="step", y_label="held-out loss", joined=True
        )
        body.append(figure(drawing, "Loss on records that training did not see, step by step; lower is better."))
    method = run.report["recipe"]["recover"]["use"]
    yield Section("Training after pruning", join(body), f"The pruned model was trained further by {method}.")


def _recipe(run: RunFacts) -> Section:
    body = [
        code(run.recipe.to_yaml().rstrip(), "recipe"),
        paragraph("recipe.yaml in this directory also lists every default. To repeat the run:"),
        code("hgsp run recipe.yaml --output NEW", "command"),
    ]
    return Section("Recipe", join(body), "The settings of this run.")


def _calibration(run: RunFacts) -> Section:
    found = run.report["calibration"]
    if not found:
        return Section("Calibration", paragraph("Nothing that was measured needed any text."))
    return Section(
        "Calibration",
        pairs(dict(_flat(found))),
        "The text on which importance was measured; runs with the same tokens sha256 saw the same.",
    )


def _environment(run: RunFacts) -> Section:
    report = run.report
    timings = [(stage, f"{seconds:.1f} s") for stage, seconds in report["timings"].items()]
    timings.append(("together", f"{sum(report['timings'].values()):.1f} s"))
    found = {
        "peak memory of the run": size(report["peak_memory_bytes"]),
        "from the store": ", ".join(report["reused"]) or "nothing",
    }
    versions = table(("", "version"), list(report["versions"].items()), "Versions")
    return Section("Environment", join([pairs(found), table(("", "time"), timings, "Time by stage"), versions]))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """(name, value) of everything in a nested result, names joined by commas."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{name}, {key}" if name else str(key).replace("_", " "))
    elif isinstance(value, float):
        yield name, metric_value(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, f"{value:,}"
    else:
        yield name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
