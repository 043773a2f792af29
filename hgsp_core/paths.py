"""Paths that users name: one way to read `~`, whoever asks."""

from __future__ import annotations

from pathlib import Path

from hgsp_core.errors import PathError


def expanded(path: str | Path) -> Path:
    """The path with `~` written out. Raises PathError: no such user, or characters that no file name has."""
    text = str(path)
    try:
        text.encode()
        if "\0" not in text:
            return Path(text).expanduser()
    except UnicodeEncodeError:
        pass
    except RuntimeError:
        raise PathError.no_user(text) from None
    raise PathError.characters(text)
