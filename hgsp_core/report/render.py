"""Templates of pages and cards: `templates/` beside the code of a package, filled in with data."""

from __future__ import annotations

import base64
import math
from functools import cache
from itertools import pairwise

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from hgsp_core.report import markdown as md
from hgsp_core.report.tables import metric_value, size


def render(package: str, template: str, /, **values: object) -> str:
    """The text of a template. In HTML every value is escaped; in Markdown what a user may have named goes through `text` or `code`."""
    return _environment(package).get_template(template).render(values, contents=[])


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        extensions=["jinja2.ext.do"],
    )
    environment.tests["finite"] = math.isfinite
    environment.filters |= {
        "text": md.text,
        "code": md.code,
        "block": md.block,
        "bullets": md.bullets,
        "share": lambda value: f"{value:.1%}",
        "number": metric_value,
        "size": size,
        "pairwise": pairwise,
        "png": lambda image: f"data:image/png;base64,{base64.b64encode(image).decode('ascii')}",
        "anchor": lambda title: "".join(c if c.isalnum() else "-" for c in title.lower()),
    }
    return environment
