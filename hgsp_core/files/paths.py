"""Paths that users name: one way to read `~`, whoever asks."""

from __future__ import annotations

from pathlib import Path

from hgsp_core.errors import PathError

#: bytes of a name, on every file system that is likely
_LONGEST = 255


def expanded(path: str | Path) -> Path:
    """The path with `~` written out. Raises PathError: no such user, a name that is too long, or characters that no name has."""
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
