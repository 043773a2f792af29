"""Charts as inline SVG of any width: places are per cent of the plot, while text and strokes keep their size on a phone.

Colours are classes (`c1`, `c2`, ... `gone`) that `page.css` fills for light, dark and print. Each chart has a label that is
read aloud, and each mark a title that shows its number. NaN and infinities are not drawn.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from markupsafe import Markup

from hgsp_core.report.scale import Scale, every, short

#: colours there are
COLOURS = 6
_TICK, _GRID = (
    Markup('<text x="-6" y="{}%" dy="0.32em" class="end">{}</text>'),
    Markup('<line x2="100%" y1="{0}%" y2="{0}%"/>'),
)
_BELOW = Markup('<text x="{}%" y="100%" dy="1.3em" class="middle">{}</text>')


def legend(names: Iterable[str]) -> Markup:
    """Names with the colours of the series of that order."""
    items = (Markup('<li><span class="c{}"></span>{}</li>').format(colour(i), name) for i, name in enumerate(names))
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def colour(index: int) -> int:
    return index % COLOURS + 1


def bars(
    label: str,
    names: Sequence[str],
    values: Sequence[float],
    *,
    series: int = 0,
    top: float | None = None,
    titles: Sequence[str] | None = None,
    line: float | None = None,
    show: Callable[[float], str] = short,
    height: int = 150,
    x_label: str = "",
) -> Markup:
    """Upright bars, one a name.

    Args:
        series: which colour.
        top: where the whole stands: the rest of a bar up to it is drawn as gone, and a value of 0 is crossed out.
        titles: shown for each bar; its name and value where left out.
        line: a value to mark across all bars, such as the mean.
    """
    scale = Scale(0.0, top) if top else Scale.over([*values, *([] if line is None else [line])], zero=True)
    titles = titles or [f"{name}: {show(value)}" for name, value in zip(names, values, strict=True)]
    step, width = 100 / max(len(names), 1), 80 / max(len(names), 1)
    parts = []
    for i, (value, title) in enumerate(zip(values, titles, strict=True)):
        if not math.isfinite(value):
            continue
        left, zero, end = i * step + 0.1 * step, 100 - scale.place(0), 100 - scale.place(value)
        marks = Markup("")
        if top:
            marks += _rect("gone", left, 0, width, 100)
        marks += _rect(f"c{colour(series)}", left, min(zero, end), width, abs(zero - end))
        if top and value == 0:
            marks += Markup('<text x="{:.3f}%" y="50%" dy="0.35em" class="middle cross">×</text>').format(
                left + width / 2
            )
        parts.append(Markup("<g><title>{}</title>{}</g>").format(title, marks))
    if line is not None and math.isfinite(line):
        parts.append(
            Markup('<line class="mark" x2="100%" y1="{0:.3f}%" y2="{0:.3f}%"/>').format(100 - scale.place(line))
        )
    return _plot(label, height, scale, show, _names(names, step), parts, x_label)


def points(
    label: str,
    series: Mapping[str, Sequence[tuple[float, float, str]]],
    *,
    x_label: str = "",
    y_label: str = "",
    joined: bool = False,
    named: bool = False,
    show: Callable[[float], str] = short,
    show_x: Callable[[float], str] = short,
    height: int = 220,
    lines: Iterable[float] = (),
    path: Sequence[tuple[float, float]] = (),
) -> Markup:
    """Dots (x, y, title) of one colour a series; axes in powers of ten where the values differ much.

    Args:
        joined: lines between the dots of a series, in the order given.
        named: the titles stand beside the dots, and not only on them.
        lines: values of y to mark across.
        path: places (x, y) of the series that a line joins, such as the best ones.
    """
    given = {name: [p for p in dots if math.isfinite(p[0]) and math.isfinite(p[1])] for name, dots in series.items()}
    every_dot = [dot for dots in given.values() for dot in dots]
    xs, ys = Scale.over(x for x, _, _ in every_dot), Scale.over([*(y for _, y, _ in every_dot), *lines])
    parts = [
        Markup('<line class="mark" x2="100%" y1="{0:.3f}%" y2="{0:.3f}%"/>').format(100 - ys.place(line))
        for line in lines
    ]
    for (x1, y1), (x2, y2) in itertools.pairwise(path):
        ends = xs.place(x1), 100 - ys.place(y1), xs.place(x2), 100 - ys.place(y2)
        parts.append(Markup('<line class="mark" x1="{:.3f}%" y1="{:.3f}%" x2="{:.3f}%" y2="{:.3f}%"/>').format(*ends))
    for i, dots in enumerate(given.values()):
        parts += _dots([(xs.place(x), 100 - ys.place(y), title) for x, y, title in dots], i, joined, named)
    below = [_BELOW.format(f"{xs.place(x):.3f}", show_x(x)) for x in xs.ticks()]
    return _plot(label, height, ys, show, below, parts, x_label, y_label)


def dots(
    label: str,
    names: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    show: Callable[[float], str] = short,
    height: int = 190,
    x_label: str = "",
    y_label: str = "",
) -> Markup:
    """One value a name and series, joined along the names."""
    scale = Scale.over(value for values in series.values() for value in values)
    step, parts = 100 / max(len(names), 1), []
    for i, (series_name, values) in enumerate(series.items()):
        placed = [
            ((n + 0.5) * step, 100 - scale.place(value), f"{name}, {series_name}: {show(value)}")
            for n, (name, value) in enumerate(zip(names, values, strict=True))
            if math.isfinite(value) and (value > 0 or not scale.log)
        ]
        parts += _dots(placed, i, joined=True, named=False)
    return _plot(label, height, scale, show, _names(names, step), parts, x_label, y_label)


def heat(label: str, names: Sequence[str], image: bytes, cut: Sequence[float], height: int) -> Markup:
    """A picture of one row a name, stretched over the plot, and in each row a line at the share `cut` of its width."""
    step = 100 / max(len(names), 1)
    data = base64.b64encode(image).decode("ascii")
    parts = [
        Markup('<image width="100%" height="100%" preserveAspectRatio="none" href="data:image/png;base64,{}"/>').format(
            data
        )
    ]
    for i, share in enumerate(cut):
        if share > 0:
            top, bottom, x = i * step, (i + 1) * step, 100 * share
            parts.append(
                Markup('<line class="cut" x1="{0:.3f}%" x2="{0:.3f}%" y1="{1:.3f}%" y2="{2:.3f}%"/>').format(
                    x, top, bottom
                )
            )
    for i in range(0, len(names), every(len(names), 24)):
        parts.append(_TICK.format(f"{(i + 0.5) * step:.3f}", names[i]))
    for share, side in ((0, "start"), (50, "middle"), (100, "end")):
        parts.append(Markup('<text x="{0}%" y="100%" dy="1.3em" class="{1}">{0}%</text>').format(share, side))
    parts.append(Markup('<text x="100%" y="100%" dy="2.7em" class="end name">units</text>'))
    return Markup('<div class="footed">{}</div>').format(_svg(label, height, parts))


def share_bar(share: float, title: str) -> Markup:
    """A bar for a table's cell: `share` of a whole that is marked, longer ones up to twice the whole."""
    if not math.isfinite(share):
        return Markup("")
    width = 50 * min(max(share, 0.0), 2.0)
    return Markup(
        '<svg class="share" role="img" aria-label="{0}"><title>{0}</title><rect class="gone" width="50%" height="100%"/>'
        '<rect class="c1" width="{1:.2f}%" height="100%"/><line class="mark" x1="50%" x2="50%" y2="100%"/></svg>'
    ).format(title, width)


def _dots(placed: Sequence[tuple[float, float, str]], series: int, joined: bool, named: bool) -> list[Markup]:
    """placed: (x, y, title) in per cent."""
    parts, style = [], colour(series)
    if joined:
        for (x1, y1, _), (x2, y2, _) in itertools.pairwise(placed):
            parts.append(
                Markup('<line class="s{}" x1="{:.3f}%" y1="{:.3f}%" x2="{:.3f}%" y2="{:.3f}%"/>').format(
                    style, x1, y1, x2, y2
                )
            )
    for x, y, title in placed:
        parts.append(
            Markup('<circle class="c{}" cx="{:.3f}%" cy="{:.3f}%" r="3.5"><title>{}</title></circle>').format(
                style, x, y, title
            )
        )
        if named:
            side = ("end", -7) if x > 55 else ("start", 7)
            parts.append(
                Markup('<text class="{}" x="{:.3f}%" y="{:.3f}%" dx="{}" dy="0.32em">{}</text>').format(
                    side[0], x, y, side[1], title
                )
            )
    return parts


def _names(names: Sequence[str], step: float) -> list[Markup]:
    return [_BELOW.format(f"{(i + 0.5) * step:.3f}", names[i]) for i in range(0, len(names), every(len(names)))]


def _rect(style: str, x: float, y: float, width: float, height: float) -> Markup:
    return Markup('<rect class="{}" x="{:.3f}%" y="{:.3f}%" width="{:.3f}%" height="{:.3f}%"/>').format(
        style, x, y, width, height
    )


def _plot(
    label: str,
    height: int,
    scale: Scale,
    show: Callable[[float], str],
    below: Sequence[Markup],
    parts: Sequence[Markup],
    x_label: str = "",
    y_label: str = "",
) -> Markup:
    """A frame of grid lines and labels around the parts."""
    ticks = [(f"{100 - scale.place(value):.3f}", value) for value in scale.ticks()]
    grid = Markup('<g class="grid">{}</g>').format(Markup("").join(_GRID.format(y) for y, _ in ticks))
    words = [_TICK.format(y, show(value)) for y, value in ticks] + list(below)
    if y_label:
        words.append(Markup('<text x="0" y="0" dy="-0.7em" dx="-6" class="start name">{}</text>').format(y_label))
    if x_label:
        words.append(Markup('<text x="100%" y="100%" dy="2.7em" class="end name">{}</text>').format(x_label))
    drawing = _svg(label, height, [grid, *parts, *words])
    style = " ".join(name for name, there in (("titled", y_label), ("footed", x_label)) if there)
    return Markup('<div class="{}">{}</div>').format(style, drawing) if style else drawing


def _svg(label: str, height: int, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="plot" role="img" aria-label="{}" style="height:{}px">\n{}\n</svg>').format(
        label, height, Markup("\n").join(parts)
    )
