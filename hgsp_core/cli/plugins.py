"""`hgsp plugins`: what is installed, what could be, what is broken, and whether one holds what it must."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from hgsp_core.cli import new_plugin
from hgsp_core.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from hgsp_core.plugin.registry import Broken, Entry

app = typer.Typer(
    name="plugins",
    help="""Architectures and methods: what is installed, what could be, and what is broken.

    Example: `hgsp plugins` lists all, `hgsp plugins show hgsp` tells the parameters of one.""",
)
app.command("new")(new_plugin.new)


@app.callback(invoke_without_command=True)
def plugins(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_plugins()


@app.command("list")
def list_plugins() -> None:
    """List what the installed plugins provide, known plugins that are not installed, and broken ones with the reason.

    Example: `hgsp plugins list`

    Reads the entry points of the group 'hgsp'. Writes nothing.
    """
    from hgsp_core.cli.show import output
    from hgsp_core.plugin.method import HOOKS
    from hgsp_core.plugin.registry import catalogue, installed

    found, console = installed(), output()
    for kind in HOOKS:
        if entries := sorted(found.of_kind(kind), key=lambda e: (e.name, e.distribution)):
            console.print(f"{kind}s", style="bold")
            console.print(_table((e.name, e.method.summary, e.distribution) for e in entries))
    plugins: list[Entry | Broken] = [*found.entries, *found.broken]
    there = {_normal(plugin.distribution) for plugin in plugins}
    if known := [k for k in catalogue() if _normal(k["distribution"]) not in there]:
        console.print("known, not installed", style="bold")
        console.print(_table((k["distribution"], k["summary"], f"pip install {k['distribution']}") for k in known))
    if found.broken:
        console.print("broken", style="bold red")
        for plugin in found.broken:
            console.print(f"  {plugin.distribution}: {plugin.reason}")
    console.print("More about one of them: hgsp plugins show NAME")


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A method, an architecture or a distribution; or distribution/name.")
    ],
) -> None:
    """Tell what a method takes: its parameters with defaults, ranges and meaning, and the lines for a recipe.

    Example: `hgsp plugins show uniform`, or `hgsp plugins show hgsp-core/uniform` where two plugins have one

    Reads what the plugin declares; does not load the method. Writes nothing.
    """
    from hgsp_core.cli.explain import explain
    from hgsp_core.cli.show import output
    from hgsp_core.plugin.registry import installed

    console = output()
    for i, entry in enumerate(_named(name)):
        if i:
            console.print()
        alone = [e.name for e in installed().of_kind(entry.kind)].count(entry.name) == 1
        console.print("\n".join(explain(entry, alone)))


@app.command()
def check(
    distribution: Annotated[str, typer.Argument(metavar="DIST", help="The plugin's distribution, as pip names it.")],
    as_json: Json = False,
) -> None:
    """Try everything that a plugin provides on tiny models: the conformance kit, with default parameters.

    Example: `hgsp plugins check hgsp-llama`

    Reads the installed plugin. Writes nothing that stays. Exit code 0 = all passed, 1 = something failed, 2 = no such plugin.
    """
    from dataclasses import asdict

    from hgsp_core.cli.console import terminal
    from hgsp_core.cli.show import output, print_json

    with terminal(quiet=as_json) as monitor, monitor.stage("Check"):
        from hgsp_core.testing import check_distribution

        results = check_distribution(distribution)
    counts = {o: [r.outcome for r in results].count(o) for o in ("passed", "failed", "not run")}
    if as_json:
        print_json({"distribution": distribution, **counts, "results": [asdict(r) for r in results]})
    else:
        console = output()
        console.print(
            _table((r.check, r.subject, f"{r.outcome}: {r.reason}" if r.reason else r.outcome) for r in results)
        )
        console.print(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))
    if counts["failed"]:
        raise typer.Exit(1)


def _named(name: str) -> list[Entry]:
    """Every method or architecture of that name (or of that distribution), of any kind and plugin.

    Raises:
        PluginError: there is none; says which known plugin has it, what was perhaps meant, and what is broken.
    """
    from hgsp_core.errors import did_you_mean
    from hgsp_core.plugin.errors import PluginError
    from hgsp_core.plugin.registry import catalogue, installed

    distribution, _, bare = name.rpartition("/")
    entries, broken = installed().entries, installed().broken
    if of_distribution := [e for e in entries if _normal(e.distribution) == _normal(name)]:
        return of_distribution
    found = [e for e in entries if e.name == bare and _normal(distribution) in ("", _normal(e.distribution))]
    if found:
        return found
    for known in catalogue():
        for kind, names in known["provides"].items():
            if bare in names and not distribution:
                raise PluginError.not_installed(kind, bare, known["distribution"])
    hint = did_you_mean(bare, [x for e in entries for x in (e.name, e.distribution)])
    raise PluginError.unknown("plugin", name, hint, [(b.distribution, b.reason) for b in broken])


def _normal(distribution: str) -> str:
    """Distribution names differ in case and dashes only by spelling (PEP 503)."""
    return distribution.lower().replace("_", "-")


def _table(rows: Iterable[tuple[str, str, str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 2), show_header=False)
    for style in ("cyan", None, "dim"):
        table.add_column(style=style, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
