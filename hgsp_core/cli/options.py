"""The options that `run` and `plan` share, and the recipe that they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hgsp_core.files.paths import expanded

if TYPE_CHECKING:
    from hgsp_core.runtime.recipe import Recipe
    from hgsp_core.runtime.store import Store

RecipeFile = Annotated[
    Path, typer.Argument(parser=expanded, metavar="RECIPE", help="Recipe, a YAML file.", show_default=False)
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set a recipe key: --set allocate.with.ratio=0.3. May be repeated."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", parser=expanded, metavar="DIR", help="Run directory, instead of the recipe's 'output'."),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        parser=expanded,
        metavar="DIR",
        help="Store for tokens and statistics, instead of HGSP_CACHE or ~/.cache/hgsp.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Hide progress; show only the result, warnings and errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print only the result, as one JSON object.")]


def read_recipe(path: Path, settings: list[str] | None, output: Path | None) -> Recipe:
    """The recipe with the settings of the command line in it."""
    from hgsp_core.runtime.recipe import load_recipe

    overrides = list(settings or ())
    if output is not None:
        overrides.append(f"output={json.dumps(str(output), ensure_ascii=False)}")
    return load_recipe(path, overrides)


def open_store(cache: Path | None) -> Store:
    from hgsp_core.runtime.store import Store, default_root

    store = Store(cache or default_root())
    store.require()
    return store
