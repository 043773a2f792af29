"""`hgsp recipe`: write one, check some, list every key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hgsp_core.cli.compare import write_new
from hgsp_core.cli.options import path_argument
from hgsp_core.cli.show import output, print_json
from hgsp_core.files.paths import expanded

app = typer.Typer(
    name="recipe",
    help="""Create and check recipes, and list their keys.

    Example: `hgsp recipe init my.yaml`, then edit it, then `hgsp recipe validate my.yaml`.""",
    no_args_is_help=True,
)


@app.command()
def init(
    file: Annotated[
        Path, typer.Argument(parser=expanded, metavar="FILE", help="File to write; must not exist.")
    ] = Path("recipe.yaml"),
) -> None:
    """Write a commented starter recipe.

    Example: `hgsp recipe init my.yaml`

    Reads nothing. Writes FILE, which must not exist.
    """
    from importlib import resources

    write_new(file, resources.files("hgsp_core.cli").joinpath("template.yaml").read_text(encoding="utf-8"))
    typer.echo(f"Wrote {file}. Set 'model.path' and 'output' in it, then: hgsp plan {file}")


@app.command()
def validate(files: Annotated[list[Path], path_argument("FILE...", "Recipes and sweeps to check.")]) -> None:
    """Check recipes and sweeps: every key, type, range, method and parameter. Exit code 2 if one is invalid.

    Example: `hgsp recipe validate recipes/*/*.yaml`

    A file with 'base', 'variants' or 'grid' is a sweep. The recipe of each run is checked, as `hgsp sweep` does first.

    Reads the files, the base of a sweep and the installed plugins' declarations; no model and no data. Writes nothing.
    """
    from hgsp_core.errors import HgspError

    faults = 0
    for file in files:
        try:
            typer.echo(f"{file}: {_checked(file)}")
        except HgspError as error:
            faults += 1
            typer.echo(f"Error: {error}", err=True)
    if faults:
        raise typer.Exit(2)


def _checked(file: Path) -> str:
    """What a file without a fault is. Raises HgspError with the faults of another one."""
    from hgsp_core.runtime.recipe import parse_mapping, parse_recipe, read_text
    from hgsp_core.sweeps.cells import grid_of, is_sweep

    text = read_text(file, "recipe or sweep")
    data = parse_mapping(text, str(file))
    if data is not None and is_sweep(data):
        return f"valid, a sweep of {len(grid_of(data, file).cells)} runs"
    parse_recipe(text, str(file))
    return "valid"


@app.command()
def schema(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON schema, for editors and programs.")] = False,
) -> None:
    """List every recipe key with its default and meaning.

    Example: `hgsp recipe schema`, or `hgsp recipe schema --json > recipe.schema.json`

    Reads and writes nothing. For the parameters under a method's 'with', see `hgsp plugins show NAME`.
    """
    from hgsp_core.files.yaml_data import in_yaml
    from hgsp_core.runtime.recipe import Recipe, describe

    if as_json:
        print_json(Recipe.model_json_schema())
        return
    console = output()
    keys = list(describe(Recipe))
    parts = {key.rpartition(".")[0] for key, _, _ in keys}
    for key, description, default in keys:
        console.print(f"{key}: {description}")
        if key not in parts:  # what a part defaults to stands at its keys
            given = default if default == "required" else f"default {in_yaml(default)}"
            console.print(f"    {given}", style="dim")
