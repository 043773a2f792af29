"""Paths and hub ids that users write."""

from __future__ import annotations

import re
from pathlib import Path

from hgsp_core.errors import PathError

#: bytes of a name, on every file system that is likely
_LONGEST = 255
#: suffixes of the files that can be a dataset
TEXT_FILES = (".txt", ".json", ".jsonl", ".parquet")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Whether the name has the form of a hub id, owner/name, and is no path here."""
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()


def expanded(path: str | Path) -> Path:
    """The path with `~` expanded. Raises PathError: no such user, a name that is too long, or invalid characters."""
    text = str(path)
    try:
        if any(len(name.encode()) > _LONGEST for name in text.split("/")):
            raise PathError.too_long(text, _LONGEST)
        if "\0" not in text:
            return Path(text).expanduser()
    except UnicodeEncodeError:
        pass
    except RuntimeError:
        raise PathError.no_user(text) from None
    raise PathError.characters(text)
