"""A sweep file that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hgsp_core.errors import HgspError, did_you_mean, first_line


class GridError(HgspError):
    """A sweep file, or its output, that cannot be used."""

    @classmethod
    def not_a_mapping(cls, source: str) -> GridError:
        return cls(
            f"{source}: a sweep is a mapping with the keys 'base', 'grid' or 'variants', and 'output' (docs/compare-and-sweep.md)."
        )

    @classmethod
    def nothing_varies(cls, source: str) -> GridError:
        return cls(f"{source}: nothing varies. Give 'grid' (key -> values) or 'variants' (axis -> named settings).")

    @classmethod
    def unknown_key(cls, source: str, place: str, key: str, known: Iterable[str]) -> GridError:
        return cls(f"{source}: {place}: '{key}' is not a recipe key.{did_you_mean(key.split('.')[0], known)}")

    @classmethod
    def not_for_grids(cls, source: str, place: str, key: str) -> GridError:
        return cls(f"{source}: {place}: '{key}' cannot vary: the sweep gives every run its own directory. Remove it.")

    @classmethod
    def set_twice(cls, source: str, key: str, first: str, second: str) -> GridError:
        return cls(f"{source}: '{key}' is set by {first} and by {second}: one would override the other. Remove one.")

    @classmethod
    def named_twice(cls, source: str, axis: str, name: str) -> GridError:
        return cls(f"{source}: variants.{axis}: two variants are called '{name}'. Rename one of them.")

    @classmethod
    def same_runs(cls, source: str, first: str, second: str) -> GridError:
        return cls(f"{source}: the runs '{first}' and '{second}' have the same recipe. Remove the repeated value.")

    @classmethod
    def no_sweep(cls, path: Path) -> GridError:
        return cls(f"output: '{path}' exists and is not a sweep. Choose another with --output DIR, or move it away.")

    @classmethod
    def other_run(cls, path: Path, name: str) -> GridError:
        return cls(
            f"output: '{path}' contains another sweep: its run '{name}' is not part of this one. Choose another with --output DIR."
        )

    @classmethod
    def other_recipe(cls, path: Path, name: str, changes: Sequence[str]) -> GridError:
        return cls(
            f"output: '{path}' contains another sweep: its run '{name}' was made with {', '.join(changes[:3])}. "
            "Choose another with --output DIR."
        )

    @classmethod
    def died(cls, code: int) -> GridError:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        memory = " (signal 9 often means that the system ran out of memory)" if code == -9 else ""
        return cls(f"The process of the run {how}{memory}.")

    @classmethod
    def no_ray(cls) -> GridError:
        return cls("--ray needs ray, which is not installed: pip install 'hgsp-core[ray]'")

    @classmethod
    def no_cluster(cls, address: str, error: Exception) -> GridError:
        fix = "Start one (ray start --head), or use --jobs."
        return cls(f"--ray {address}: no Ray cluster can be reached there: {first_line(error)} {fix}")

    @classmethod
    def not_shared(cls, path: Path) -> GridError:
        return cls(
            f"A run finished on the cluster, but '{path}' does not exist here. Put 'output' and the store on storage shared by all nodes."
        )
