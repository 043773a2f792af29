"""Commands whose options are a table of flags; flags that were renamed are taken too, with a warning."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from hgsp_core.plugin.deprecations import current_flags


@dataclass(frozen=True)
class Flag:
    """One option. `default`: what holds where it is not given, for the help; `off`: also offer `--no-NAME`."""

    name: str
    type: Any
    help: str
    default: str = ""
    metavar: str | None = None
    off: bool = False

    @property
    def parameter(self) -> str:
        return self.name.removeprefix("--")

    @property
    def negative(self) -> str:
        return f"--no-{self.parameter}"


@dataclass(frozen=True)
class Panel:
    """Flags that stand together in the help."""

    title: str
    flags: tuple[Flag, ...]


class FlagCommand(TyperCommand):
    """Reads the old name of a flag as its new one, and says so on stderr."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer's Context is not the one of its commands
        known = {name for parameter in self.params for name in parameter.opts}
        return super().parse_args(ctx, current_flags(args, known, _warn))


def _warn(text: str) -> None:
    typer.secho(f"Warning: {text}", fg="yellow", err=True)


#: the flags that were given, by name -> value
Given = dict[str, Any]
#: what typer calls, with whatever parameters it declares
Command = Callable[..., None]


def takes(*panels: Panel) -> Callable[[Command], Command]:
    """Gives a command the flags of a table: its first argument becomes the mapping of those that the user gave."""

    def decorate(function: Command) -> Command:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        flags = [flag for panel in panels for flag in panel.flags]
        parameters = [_parameter(flag, panel.title) for panel in panels for flag in panel.flags]
        positional = [p for p in own if isinstance(_option(p), typer.models.ArgumentInfo)]
        others = [p for p in own if p not in positional]

        def command(**values: Any) -> None:
            given = {flag.name: values.pop(flag.parameter) for flag in flags}
            function({name: value for name, value in given.items() if value is not None}, **values)

        signature = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*positional, *parameters, *others)]
        command.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]  # `inspect` looks for it
        command.__annotations__ = {p.name: p.annotation for p in signature}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return command

    return decorate


def _parameter(flag: Flag, panel: str) -> inspect.Parameter:
    if flag.type is bool:
        names = [f"{flag.name}/{flag.negative}" if flag.off else flag.name]
    else:
        names = [flag.name]
    option = typer.Option(
        *names,
        help=f"{flag.help} Default: {flag.default}." if flag.default else flag.help,
        metavar=flag.metavar,
        rich_help_panel=panel,
    )
    return inspect.Parameter(
        flag.parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[flag.type | None, option]
    )


def _option(parameter: inspect.Parameter) -> Any:
    """What typer was told of a parameter."""
    return next(iter(getattr(parameter.annotation, "__metadata__", ())), None)
