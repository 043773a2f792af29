"""`hgsp plugins`: list, show, check and create plugins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hgsp_core.cli import new_plugin
from hgsp_core.cli.options import Json
from hgsp_core.cli.show import output, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from hgsp_core.plugin.registry import Entry

app = typer.Typer(
    name="plugins",
    help="""List, inspect, check and create plugins: architectures and methods.

    Example: `hgsp plugins` lists all of them, `hgsp plugins show hgsp` shows the parameters of one.""",
)
app.command("new")(new_plugin.new)


@app.callback(invoke_without_command=True)
def plugins(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_plugins()


@app.command("list")
def list_plugins(as_json: Json = False) -> None:
    """List what installed plugins provide, known plugins that are not installed, and broken plugins with the reason.

    Example: `hgsp plugins list`, or `hgsp plugins list --json`

    Reads the entry points of the group 'hgsp'. Writes nothing.
    """
    found = _listing()
    if as_json:
        print_json(found)
        return
    console = output()
    for kind, entries in groupby(found["installed"], key=itemgetter("kind")):
        console.print(f"{kind}s", style="bold")
        console.print(_table((e["name"], e["summary"], e["distribution"]) for e in entries))
    if found["not_installed"]:
        console.print("known, not installed", style="bold")
        rows = ((k["distribution"], k["summary"], f"pip install {k['distribution']}") for k in found["not_installed"])
        console.print(_table(rows))
    if found["broken"]:
        console.print("broken", style="bold red")
        for plugin in found["broken"]:
            console.print(f"  {plugin['distribution']}: {plugin['reason']}")
    console.print("Details of one of them: hgsp plugins show NAME")


def _listing() -> dict[str, list[dict[str, Any]]]:
    """Installed methods by kind and name, known plugins that are not installed, and broken ones."""
    from hgsp_core.plugin.method import HOOKS
    from hgsp_core.plugin.registry import catalogue, installed

    found = installed()
    kinds = list(HOOKS)
    entries = sorted(found.entries, key=lambda e: (kinds.index(e.kind), e.name, e.distribution))
    return {
        "installed": [
            {"kind": e.kind, "name": e.name, "distribution": e.distribution, "summary": e.method.summary}
            for e in entries
        ],
        "not_installed": [known for known in catalogue() if not found.has(known["distribution"])],
        "broken": [asdict(plugin) for plugin in found.broken],
    }


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Method, architecture, distribution, or distribution/name.")
    ],
    as_json: Json = False,
) -> None:
    """Show the parameters of a method, with defaults, ranges and meaning, and how a recipe uses it.

    Example: `hgsp plugins show uniform`, or `hgsp plugins show hgsp-core/uniform` if two plugins provide it; `--json` for programs

    Reads the plugin's declaration; does not load the method. Writes nothing.
    """
    from hgsp_core.cli.explain import describe, in_words
    from hgsp_core.plugin.registry import installed

    found = []
    for entry in _named(name):
        alone = [e.name for e in installed().of_kind(entry.kind)].count(entry.name) == 1
        found.append(describe(entry, alone))
    if as_json:
        print_json({"found": [asdict(description) for description in found]})
        return
    output().print("\n\n".join("\n".join(in_words(description)) for description in found))


@app.command()
def check(
    distribution: Annotated[str, typer.Argument(metavar="DIST", help="The plugin's distribution, as pip names it.")],
    as_json: Json = False,
) -> None:
    """Test everything a plugin provides on tiny models: the conformance kit, with default parameters.

    Example: `hgsp plugins check hgsp-llama`

    Reads the installed plugin. Writes only temporary files. Exit code 0 = all passed, 1 = a check failed, 2 = no such plugin.
    """
    from hgsp_core.cli.console import terminal

    with terminal(quiet=as_json) as monitor, monitor.stage("Check"):
        from hgsp_core.testing import check_distribution

        results = check_distribution(distribution)
    counts = {o: [r.outcome for r in results].count(o) for o in ("passed", "failed", "not run")}
    if as_json:
        print_json({"distribution": distribution, **counts, "results": [asdict(r) for r in results]})
    else:
        told = ((r.check, r.subject, f"{r.outcome}: {r.reason}" if r.reason else r.outcome) for r in results)
        output().print(_table(told))
        output().print(", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count))
    if counts["failed"]:
        raise typer.Exit(1)


def _named(name: str) -> list[Entry]:
    """Every method or architecture of that name (or of that distribution), of any kind and plugin.

    Raises:
        PluginError: there is none; names the known plugin that has it, a near name, and broken plugins.
    """
    from hgsp_core.errors import did_you_mean
    from hgsp_core.plugin.errors import PluginError
    from hgsp_core.plugin.registry import catalogue, installed, same_name

    distribution, _, bare = name.rpartition("/")
    entries, broken = installed().entries, installed().broken
    if of_distribution := [e for e in entries if same_name(e.distribution, name)]:
        return of_distribution
    named = [e for e in entries if e.name == bare]
    if found := [e for e in named if not distribution or same_name(e.distribution, distribution)]:
        return found
    for known in catalogue():
        for kind, names in known["provides"].items():
            if bare in names and not distribution:
                raise PluginError.not_installed(kind, bare, known["distribution"])
    hint = did_you_mean(bare, [x for e in entries for x in (e.name, e.distribution)])
    raise PluginError.unknown("plugin", name, hint, [(b.distribution, b.reason) for b in broken])


def _table(rows: Iterable[tuple[str, str, str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 2), show_header=False)
    for style in ("cyan", None, "dim"):
        table.add_column(style=style, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
