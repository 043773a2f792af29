"""The charts of a run, for its page and its PNG files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hgsp_core.report.chart import Chart, Mark, Scale, Series, colour, short
from hgsp_core.report.facts import RunFacts
from hgsp_core.report.tables import metric_value


def layer_charts(run: RunFacts) -> list[Chart]:
    """What is kept of each layer, one a kind of block."""
    charts, x = [], Scale.layers(len(run.layers))
    for i, axis in enumerate(run.axes):
        blocks = {layer.index: layer.blocks[axis] for layer in run.layers if axis in layer.blocks}
        marks = [
            Mark(n, b.share, f"layer {n}: {b.text()} units, {b.share:.1%} of the parameters kept", f"{b.kept}/{b.of}")
            for n, b in blocks.items()
        ]
        kept, of = sum(b.kept for b in blocks.values()), sum(b.of for b in blocks.values())
        share = sum(b.after for b in blocks.values()) / sum(b.before for b in blocks.values())
        title = f"{axis}: {kept:,} of {of:,} units kept, {share:.1%} of the parameters (dashed)"
        y, mean = Scale(0, 1, "share kept", "{:.0%}".format), ((x.low, share), (x.high, share))
        charts.append(Chart(title, "shares", x, y, [Series("", marks, colour(i))], dashed=mean, height=150))
    return charts


def prior_chart(run: RunFacts) -> Chart | None:
    """Priors of the layers and, where they were measured, of the blocks."""
    if run.priors is None:
        return None
    columns = {"layer": run.priors.layer, **run.priors.blocks}
    series = {name: list(map(float, values)) for name, values in columns.items()}
    return _curves("importance of layers and blocks", f"prior ({run.recipe.prior.use})", series, "Priors by layer.")


def scale_chart(run: RunFacts) -> Chart:
    """Largest, mean and smallest gradient (or score) of each layer."""
    found = run.diagnosis
    columns = ((layer["max"], layer["mean"], layer["min"]) for layer in found["layers"])
    values = ([value or math.nan for value in column] for column in zip(*columns, strict=True))
    series = dict(zip(("largest", "mean", "smallest"), values, strict=True))
    what, text = found["source"], f"The largest layer mean is {metric_value(found['mean_ratio'])} times the smallest."
    caption = f"By layer, {found['what']}. {text}"
    return _curves(f"size of the {what} of each layer", f"absolute {what}", series, caption)


def recovery_chart(run: RunFacts) -> Chart | None:
    """The loss by step of the training after pruning, where it was measured more than once."""
    losses = (run.report["recovery"] or {}).get("held_out_loss")
    if not isinstance(losses, Mapping) or len(losses) < 2:
        return None
    course = sorted((float(step), loss) for step, loss in losses.items())
    marks = [Mark(step, loss, f"step {step:g}: {metric_value(loss)}") for step, loss in course if math.isfinite(loss)]
    x, y = Scale.over((m.x for m in marks), "step"), Scale.over((m.y for m in marks), "held-out loss")
    caption = "Loss on records that training did not see, step by step; lower is better."
    return Chart("held-out loss by step", "curves", x, y, [Series("", marks, 1)], caption)


def _curves(title: str, what: str, values: Mapping[str, Sequence[float]], caption: str) -> Chart:
    """One value a layer and series; what is not finite is left out."""
    series = []
    for i, (name, column) in enumerate(values.items()):
        finite = [(n, value) for n, value in enumerate(column) if math.isfinite(value)]
        series.append(Series(name, [Mark(n, v, f"layer {n}, {name}: {short(v)}") for n, v in finite], colour(i)))
    y = Scale.over((mark.y for one in series for mark in one.marks), what)
    return Chart(title, "curves", Scale.layers(max(map(len, values.values()))), y, series, caption)
