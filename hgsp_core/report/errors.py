"""Runs that cannot be compared, or a finding that cannot be told."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from hgsp_core.errors import HgspError, did_you_mean


class CompareError(HgspError):
    """A run that cannot be compared."""

    @classmethod
    def no_directory(cls, path: Path, near: Iterable[str]) -> CompareError:
        close = get_close_matches(path.name, list(near), n=1)
        return cls(f"There is no run directory '{path}'.{f' Did you mean {close[0]!r}?' if close else ''}")

    @classmethod
    def unfinished(cls, path: Path) -> CompareError:
        return cls(
            f"The run '{path}' is not finished: it is still running, or was killed. Wait for it, or run its recipe again."
        )

    @classmethod
    def no_file(cls, path: Path) -> CompareError:
        return cls(
            f"'{path.parent}' has no {path.name}, so it is not a finished run. Give directories that `hgsp run` or `hgsp sweep` wrote."
        )

    @classmethod
    def unreadable(cls, path: Path, error: Exception) -> CompareError:
        return cls(f"'{path}' cannot be read: {error}. Run its recipe again.")

    @classmethod
    def incomplete(cls, path: Path, error: Exception) -> CompareError:
        lacks = f" ({error} is missing)" if isinstance(error, KeyError) else ""
        return cls(
            f"The report.json or plan.json in '{path}' is not from a run{lacks}. Run its recipe again, or leave this run out."
        )

    @classmethod
    def no_column(cls, name: str, known: Iterable[str]) -> CompareError:
        return cls(f"--sort: there is no column '{name}'.{did_you_mean(name, known)}")


class DiagnosisError(HgspError):
    """A run whose diagnosis cannot be shown."""

    @classmethod
    def no_directory(cls, path: Path, near: Iterable[str]) -> DiagnosisError:
        close = get_close_matches(path.name, list(near), n=1)
        return cls(f"There is no run directory '{path}'.{f' Did you mean {close[0]!r}?' if close else ''}")

    @classmethod
    def no_diagnosis(cls, path: Path) -> DiagnosisError:
        return cls(
            f"'{path.parent}' has no {path.name}: it is not a finished run, or it was written by an older version. "
            "Give a directory that `hgsp run` wrote, or run its recipe again."
        )

    @classmethod
    def unreadable(cls, path: Path, error: Exception) -> DiagnosisError:
        return cls(f"'{path}' cannot be read as a diagnosis: {error}. Run its recipe again.")
