"""A check: one promise by name, that holds or says what is wrong and how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn
from unittest import SkipTest

from hgsp_core import HgspError

#: a function that raises AssertionError, and the ones that must hold before it can tell anything
Table = Mapping[Callable[[Any], None], tuple[Callable[[Any], None], ...]]


@dataclass(frozen=True, eq=False)
class Check:
    """Call it: nothing happens, or an AssertionError tells the fault.

    Where a check that it `needs` does not hold it raises `unittest.SkipTest` instead (pytest reports it as skipped), so one
    mistake in a plugin is one failure. Whatever its function raises becomes an AssertionError.
    """

    name: str
    promise: str
    function: Callable[[Any], None]
    subject: Any
    needs: tuple[Check, ...]

    def __call__(self) -> None:
        if self.fault is not None:
            raise self.fault

    def __str__(self) -> str:
        return self.name

    @cached_property
    def fault(self) -> AssertionError | SkipTest | None:
        """What calling it raises; found out once."""
        for need in self.needs:
            if isinstance(need.fault, SkipTest):
                return need.fault
            if need.fault is not None:
                return SkipTest(f"not run, because '{need}' does not hold")
        try:
            self.function(self.subject)
        except (AssertionError, SkipTest) as fault:
            return fault
        except HgspError as error:
            return _caused(str(error), error)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the check is what reports it
            return _caused(f"{type(error).__name__}: {error}", error)
        return None


def _caused(message: str, error: Exception) -> AssertionError:
    fault = AssertionError(message)
    fault.__cause__ = error
    return fault


def checks_of(table: Table, subject: Any) -> list[Check]:
    """The checks of a table about one subject, in its order: a check stands below those that it needs."""
    made: dict[Callable[[Any], None], Check] = {}
    for function, needs in table.items():
        promise = (function.__doc__ or "").strip().splitlines()[0]
        made[function] = Check(function.__name__, promise, function, subject, tuple(made[need] for need in needs))
    return list(made.values())


def require(condition: Any, message: str) -> None:
    """Like `assert`, which `python -O` would leave out."""
    if not condition:
        fail(message)


def fail(message: str) -> NoReturn:
    raise AssertionError(message)
