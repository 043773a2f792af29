"""A plugin project that cannot be created."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hgsp_core.errors import HgspError, did_you_mean, nearest


class ProjectError(HgspError):
    """A plugin project that `hgsp plugins new` cannot write."""

    @classmethod
    def kind(cls, kind: str, known: Sequence[str]) -> ProjectError:
        return cls(f"There is no kind of plugin '{kind}'.{did_you_mean(kind, known)}")

    @classmethod
    def name(cls, name: str) -> ProjectError:
        return cls(
            f"'{name}' is not a valid name: write it in lower-case letters, digits and dashes, beginning with a letter, such as my-method."
        )

    @classmethod
    def taken(cls, name: str, distribution: str) -> ProjectError:
        return cls(f"'{name}' is taken: its distribution would be '{distribution}', which exists. Choose another name.")

    @classmethod
    def model_type(cls, name: str, known: Iterable[str]) -> ProjectError:
        return cls(
            f"transformers has no models with model_type '{name}'.{nearest(name, known)} "
            "An architecture is named by the model_type in its models' config.json."
        )

    @classmethod
    def exists(cls, path: Path) -> ProjectError:
        return cls(f"'{path}' exists and is not overwritten. Choose another with --directory DIR, or move it away.")

    @classmethod
    def cannot_make(cls, path: Path, error: OSError) -> ProjectError:
        return cls(f"'{path}' cannot be created: {error.strerror or error}. Choose another place with --directory DIR.")
