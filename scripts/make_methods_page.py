"""Write docs/methods.md from the docstrings, parameters and architecture data of this project's own methods.

`scripts/methods_page.md` has the prose. There, a line `{scorer}` stands for the sentence that the kind's contract begins with, and
`{scorer methods}` for an index of its methods and a section for each. tests/project/test_docs.py fails where the
page is older than its sources.
"""

import inspect
import re
from collections import Counter
from pathlib import Path

from hgsp_core.cli.explain import describe
from hgsp_core.plugin import registry
from hgsp_core.testing.trial import CONTRACTS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
TEMPLATE = Path(__file__).with_name("methods_page.md")
CORE, BASELINES = "hgsp-core", "hgsp-baselines"
FAMILIES = ("hgsp-llama", "hgsp-mistral", "hgsp-qwen", "hgsp-gemma", "hgsp-phi", "hgsp-more", "hgsp-gptoss")
OWN = (CORE, *FAMILIES, BASELINES)
#: the parts of a method's docstring, in their order; the notes come below the list of the others
PARTS = ("Formula", "Source", "Cost", "When", "Notes")


def own(kind):
    """This project's entries of a kind, the core's first, whatever else is installed."""
    entries = [entry for entry in registry.installed().of_kind(kind) if entry.distribution in OWN]
    return sorted(entries, key=lambda entry: OWN.index(entry.distribution))


def parts(docstring):
    """Part -> its text: "What", the first paragraph, and those of PARTS that the docstring has."""
    what, *rest = re.split(rf"^({'|'.join(PARTS)}): ", inspect.cleandoc(docstring), flags=re.MULTILINE)
    found = {"What": what, **dict(zip(rest[::2], rest[1::2], strict=True))}
    return {part: _unwrapped(text) for part, text in found.items()}


def _unwrapped(text):
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def implementation(entry):
    return registry.implementation(CONTRACTS[entry.kind], entry)


def about(kind):
    """The first sentence of the kind's contract."""
    return " ".join(CONTRACTS[kind].__doc__.partition(".")[0].split()) + "."


def method(entry):
    """The section of a method, in the one shape that all have."""
    found = parts(implementation(entry).__doc__)
    told = [f"- **{part}:** {found[part]}" for part in PARTS[:-1] if part in found]
    plugin = f" From the plugin `{entry.distribution}`." if entry.distribution != CORE else ""
    blocks = [f"### {entry.name}", found["What"] + plugin, "\n".join(told), found.get("Notes", "")]
    return [*blocks, f"```yaml\n{describe(entry, alone=True).recipe.rstrip()}\n```"]


def family(entry):
    """The section of an architecture: what it prunes, from its data."""
    axes = [
        f"- **{axis.name}:** `{axis.units}` units of {', '.join(f'`{linear}`' for linear in axis.linears)}"
        for axis in describe(entry, alone=True).axes
    ]
    return [f"### {entry.name}", f"{entry.method.summary}. From the plugin `{entry.distribution}`.", "\n".join(axes)]


def page():
    """The text of docs/methods.md."""
    headings = Counter()

    def link(name):
        headings[name] += 1  # as GitHub numbers headings of the same name
        return f"[`{name}`](#{name}{f'-{headings[name] - 1}' if headings[name] > 1 else ''})"

    def methods(kind):
        section = method if kind in CONTRACTS else family
        rows = ["| name | summary | plugin |", "|---|---|---|"]
        for entry in own(kind):
            summary = entry.method.summary.replace("|", r"\|")
            rows.append(f"| {link(entry.name)} | {summary} | `{entry.distribution}` |")
        return "\n\n".join(["\n".join(rows), *(block for entry in own(kind) for block in section(entry) if block)])

    def filled(marker):
        return methods(marker[1]) if marker[2] else about(marker[1])

    return re.sub(r"^\{(\w+)( methods)?\}$", filled, TEMPLATE.read_text(encoding="utf-8"), flags=re.MULTILINE)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
