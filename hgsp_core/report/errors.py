"""Runs that cannot be compared, or a finding that cannot be told."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hgsp_core.errors import HgspError, did_you_mean, nearest


class RunError(HgspError):
    """A directory that is no finished run."""

    @classmethod
    def no_directory(cls, path: Path) -> RunError:
        near = [directory.name for directory in path.parent.glob("*") if directory.is_dir()]
        return cls(f"There is no run directory '{path}'.{nearest(path.name, near)}")


class CompareError(RunError):
    """A run that cannot be compared."""

    @classmethod
    def unfinished(cls, path: Path) -> CompareError:
        return cls(f"The run '{path}' is not finished: it still runs or was killed. Wait, or run its recipe again.")

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


class DiagnosisError(RunError):
    """A run whose diagnosis cannot be shown."""

    @classmethod
    def no_diagnosis(cls, path: Path) -> DiagnosisError:
        return cls(
            f"'{path.parent}' has no {path.name}: it is not a finished run, or it was written by an older version. "
            "Give a directory that `hgsp run` wrote, or run its recipe again."
        )

    @classmethod
    def unreadable(cls, path: Path, error: Exception) -> DiagnosisError:
        return cls(f"'{path}' cannot be read as a diagnosis: {error}. Run its recipe again.")
