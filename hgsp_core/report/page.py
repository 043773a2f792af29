"""A self-contained HTML page from small parts: no script, no font and no address that a browser would fetch.

    page("A run", "What it did.", [Section("Sizes", table(("", "before"), [("parameters", "2,374,080")], "Sizes of the model"))])

Every part takes plain text, which is escaped, or `Markup` that another part made. Style: `page.css`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from markupsafe import Markup

_PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="hgsp-core">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{lead}
</header>
<nav aria-label="Contents"><ul>
{contents}
</ul></nav>
<main>
{sections}
</main>
</body>
</html>
""")


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading; `intro` says to a newcomer what is to be seen."""

    title: str
    body: Markup | str
    intro: str = ""

    @property
    def anchor(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


def page(title: str, lead: str | Markup, sections: Sequence[Section]) -> str:
    """The whole document.

    Args:
        lead: what happened, in a sentence or two.
    """
    return _PAGE.format(
        title=title,
        style=Markup((files(__package__) / "page.css").read_text(encoding="utf-8")),
        lead=paragraph(lead),
        contents=_lines(Markup('<li><a href="#{}">{}</a></li>').format(s.anchor, s.title) for s in sections),
        sections=_lines(
            Markup(
                '<section id="{0}" aria-labelledby="{0}-title">\n<h2 id="{0}-title">{1}</h2>\n{2}{3}\n</section>'
            ).format(s.anchor, s.title, paragraph(s.intro) if s.intro else "", s.body)
            for s in sections
        ),
    )


def paragraph(text: str | Markup) -> Markup:
    return Markup("<p>{}</p>").format(text)


def table(header: Sequence[str], rows: Iterable[Sequence[str | Markup]], caption: str) -> Markup:
    """A table whose first column names its rows; it scrolls on its own where the page is narrow.

    Cells of a row are text, or Markup such as `share_bar` makes.
    """
    head = _join(Markup('<th scope="col">{}</th>').format(name) for name in header)
    body = _lines(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            row[0], _join(Markup("<td>{}</td>").format(c) for c in row[1:])
        )
        for row in rows
    )
    return Markup(
        '<div class="wide" role="region" aria-label="{0}" tabindex="0"><table>\n<caption>{0}</caption>\n'
        "<thead><tr>{1}</tr></thead>\n<tbody>\n{2}\n</tbody></table></div>"
    ).format(caption, head, body)


def figure(drawing: Markup, caption: str, *more: Markup) -> Markup:
    """A drawing with what it shows below it, and `more` (a legend, a table) below that."""
    return Markup("<figure>\n{}\n<figcaption>{}</figcaption>\n{}</figure>").format(drawing, caption, _lines(more))


def pairs(found: Mapping[str, str | Markup]) -> Markup:
    """Names and what they are: short facts, or words explained."""
    return Markup("<dl>\n{}\n</dl>").format(
        _lines(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, value) for name, value in found.items())
    )


def code(text: str, label: str) -> Markup:
    """Text to copy, line by line as it is."""
    return Markup('<pre tabindex="0" role="region" aria-label="{}"><code>{}</code></pre>').format(label, text)


def bullets(items: Iterable[str | Markup]) -> Markup:
    return Markup("<ul>\n{}\n</ul>").format(_lines(Markup("<li>{}</li>").format(item) for item in items))


def folded(summary: str, body: Markup) -> Markup:
    """Details that open on a click; always open in print."""
    return Markup("<details>\n<summary>{}</summary>\n{}\n</details>").format(summary, body)


def tiles(items: Iterable[tuple[str, str, str]]) -> Markup:
    """A few big numbers: (what it is, the number, a line below it)."""
    tile = Markup("<li><span>{}</span><strong>{}</strong><small>{}</small></li>")
    return Markup('<ul class="tiles">\n{}\n</ul>').format(_lines(tile.format(*item) for item in items))


def beside(parts: Iterable[Markup]) -> Markup:
    """Figures beside each other where the page is wide enough, else below each other."""
    return Markup('<div class="beside">\n{}\n</div>').format(_lines(parts))


def card(title: str, tone: str, *body: Markup) -> Markup:
    """A box of its own. tone: "bad", "warn", "good" or "plain"."""
    return Markup('<article class="card {}">\n<h3>{}</h3>\n{}\n</article>').format(tone, title, _lines(body))


def join(parts: Iterable[Markup]) -> Markup:
    """Parts below each other."""
    return _lines(parts)


def _join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def _lines(parts: Iterable[Markup]) -> Markup:
    return Markup("\n").join(parts)
