"""`hgsp plugins new`: a plugin to start from, as a complete project.

The files are those below `templates/`, with `$name` and the like filled in, in their paths too (`string.Template`). A project is
laid over in turn by `project`, by `method` unless it is an architecture, and by the folder of its kind.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated

import typer

from hgsp_core.cli.options import path_option

if TYPE_CHECKING:
    from importlib.abc import Traversable

SUFFIX = ".template"
#: kind -> the parameters that its template uses; an allocator's are in its own template
FIELDS = {
    "scorer": 'power: float = Field(1.0, gt=0, le=4, description="exponent, 0..4, of the sum; above 1 large units gain")',
    "prior": 'power: float = Field(1.0, ge=0, le=4, description="exponent, 0..4, of the norm; 0 = all layers alike")',
    "normalizer": 'power: float = Field(1.0, gt=0, le=10, description="exponent, 0..10, of the rank; above 1 the best stand out more")',
    "reconstructor": 'strength: float = Field(1.0, ge=0, le=1, description="share, 0..1, of the way to the best factor; 0 = no repair")',
    "recoverer": """steps: int = Field(20, ge=1, description="steps of the optimizer")
    batch_size: int = Field(4, ge=1, description="calibration windows of one step")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="learning rate of AdamW, above 0")""",
    "evaluator": 'threshold: float = Field(0.001, ge=0, description="absolute value under which a weight counts as small")',
    "exporter": r'file: str = Field("sizes.json", pattern=r"^[\w.-]+$", description="name of the file in the run directory")',
    "dataset": 'largest: int = Field(60, ge=2, le=1000, description="largest factor; twice as large is four times the text")',
}


def new(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="architecture, scorer, prior, normalizer, allocator, reconstructor, recoverer, evaluator, exporter or dataset.",
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name in recipes; of an architecture, its model_type.")],
    directory: Annotated[
        Path | None, path_option("--directory", metavar="DIR", help="Directory of the project, not ./hgsp-NAME.")
    ] = None,
) -> None:
    """Create a plugin project that installs, works in a recipe and passes its tests.

    Example: `hgsp plugins new scorer my-scorer`

    Reads nothing. Writes the directory hgsp-NAME (or DIR), which must not exist.
    """
    from hgsp_core.plugin.method import HOOKS
    from hgsp_core.plugin.registry import catalogue

    if kind not in HOOKS:
        from hgsp_core.cli.errors import ProjectError

        raise ProjectError.kind(kind, list(HOOKS))
    values = substitutions(kind, name, {"hgsp-core", *(known["distribution"] for known in catalogue())})
    project = directory or Path(values["distribution"])
    write_project(project, project_files(kind, values))
    typer.echo(
        f"Wrote {project}. Next:\n"
        f'  pip install -e "{project}[test]"\n'
        f"  pytest {project}\n"
        f"  hgsp plugins check {values['distribution']}"
    )


def substitutions(kind: str, name: str, taken: set[str]) -> dict[str, str]:
    """What the templates' placeholders stand for.

    Args:
        taken: distributions that the project must not be called.

    Raises:
        ProjectError: a name that a recipe, a module or a package index could not bear, or one that is taken; or, for an
            architecture, one that is no model type of transformers.
    """
    from hgsp_core import __version__
    from hgsp_core.cli.errors import ProjectError
    from hgsp_core.cli.explain import example
    from hgsp_core.plugin.method import HOOKS
    from hgsp_core.plugin.registry import installed

    is_method = kind != "architecture"
    # model types are written with underscores, names of methods with dashes
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*" if is_method else r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        raise ProjectError.name(name)
    distribution = "hgsp-" + name.replace("_", "-")
    if distribution in taken:
        raise ProjectError.taken(name, distribution)
    if not is_method:
        from transformers import CONFIG_MAPPING

        if name not in CONFIG_MAPPING:
            raise ProjectError.model_type(name, CONFIG_MAPPING.keys())
    symbol = name.replace("-", "_")
    others = [e for e in installed().of_kind(kind) if e.name == name and e.distribution != distribution]
    in_recipe = f"{distribution}/{name}" if others else name
    title = "".join(word.capitalize() for word in symbol.split("_"))
    return {
        "kind": kind,
        "hook": HOOKS[kind],
        "name": name,
        "symbol": symbol,
        "distribution": distribution,
        "package": f"hgsp_{symbol}",
        "cls": f"{title}{kind.capitalize()}",
        "params": f"{title}Params",
        "fields": FIELDS.get(kind, ""),
        "recipe": example(kind, in_recipe, []) if is_method else "",
        "version": __version__,
    }


def project_files(kind: str, values: Mapping[str, str]) -> dict[Path, str]:
    """Relative path -> text of every file of a project."""
    files: dict[Path, str] = {}
    for layer in ("project", "method", kind) if kind != "architecture" else ("project", kind):
        _collect(resources.files("hgsp_core.cli") / "templates" / layer, Path(), values, files)
    return files


def _collect(folder: Traversable, path: Path, values: Mapping[str, str], files: dict[Path, str]) -> None:
    for entry in folder.iterdir():
        target = path / Template(entry.name.removesuffix(SUFFIX)).substitute(values)
        if entry.is_dir():
            _collect(entry, target, values, files)
        else:
            files[target] = Template(entry.read_text(encoding="utf-8")).substitute(values)


def write_project(project: Path, files: Mapping[Path, str]) -> None:
    """Write the files to a staging directory and rename it, so that the project is complete or absent.

    Raises:
        ProjectError: it exists (it is never overwritten), or cannot be made.
    """
    from hgsp_core.cli.errors import ProjectError

    if project.exists() or project.is_symlink():
        raise ProjectError.exists(project)
    staging = project.absolute().parent / f".{project.name}.partial"
    try:
        shutil.rmtree(staging, ignore_errors=True)  # left by a process that was killed
        for path, text in files.items():
            (staging / path).parent.mkdir(parents=True, exist_ok=True)
            (staging / path).write_text(text, encoding="utf-8")
        staging.rename(project)
    except BaseException as error:  # noqa: BLE001 - Ctrl-C, too, leaves nothing
        shutil.rmtree(staging, ignore_errors=True)
        raise (ProjectError.cannot_make(project, error) if isinstance(error, OSError) else error) from None
