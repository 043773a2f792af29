"""Options that commands share, and what they open."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hgsp_core.files.paths import expanded

if TYPE_CHECKING:
    from hgsp_core.runtime.recipe import Recipe
    from hgsp_core.runtime.store import Store


def path_argument(metavar: str, help: str) -> Any:
    return typer.Argument(parser=expanded, metavar=metavar, help=help, show_default=False)


def path_option(*names: str, metavar: str, help: str) -> Any:
    return typer.Option(*names, parser=expanded, metavar=metavar, help=help, show_default=False)


def set_option(help: str) -> Any:
    return typer.Option("--set", metavar="KEY=VALUE", help=f"{help} May be repeated.")


_STORE = "Store for tokens and statistics, instead of HGSP_CACHE or ~/.cache/hgsp."
RecipeFile = Annotated[Path, path_argument("RECIPE", "Recipe, a YAML file.")]
Settings = Annotated[list[str] | None, set_option("Set a recipe key: --set allocate.with.ratio=0.3.")]
Output = Annotated[
    Path | None, path_option("--output", metavar="DIR", help="Run directory, not the recipe's 'output'.")
]
PrintRecipe = Annotated[
    bool, typer.Option("--print-recipe", help="Print the equivalent recipe, or its part, and exit.")
]
Cache = Annotated[Path | None, path_option("--cache", metavar="DIR", help=_STORE)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Hide progress; show only the result, warnings and errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print only the result, as one JSON object.")]


def read_recipe(path: Path, settings: list[str] | None, output: Path | None) -> Recipe:
    """The recipe with the settings of the command line in it."""
    from hgsp_core.runtime.recipe import load_recipe

    overrides = list(settings or ())
    if output is not None:
        overrides.append(f"output={json.dumps(str(output), ensure_ascii=False)}")
    return load_recipe(path, overrides)


def is_first() -> bool:
    """Of several processes (torchrun, accelerate launch), the first one talks."""
    return os.environ.get("RANK", "0") == "0"


def open_store(cache: Path | None) -> Store:
    from hgsp_core.runtime.store import Store, default_root

    store = Store(cache or default_root())
    store.require()
    return store
