"""Files of users and models: reading one gives a value, or one line that says why not."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from hgsp_core.errors import shown

#: largest file that is read, in bytes
LARGEST = 2**30


def read_text(path: Path, largest: int = LARGEST) -> str:
    """The text of a file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it cannot be read, and why, in one line. A pipe or a device is never waited for.
    """
    try:
        kind = path.stat()
        piped = stat.S_ISFIFO(kind.st_mode) and str(path).startswith("/dev/")  # `<(command)`, or standard input
        if not stat.S_ISREG(kind.st_mode) and not piped:
            raise ValueError(f"it is a {'directory' if stat.S_ISDIR(kind.st_mode) else 'device or a pipe'}, not a file")
        with path.open("rb") as file:
            content = file.read(min(largest, kind.st_size) + 1 if stat.S_ISREG(kind.st_mode) else largest + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    if len(content) > largest:
        raise ValueError(f"it is larger than {largest:,} bytes")
    try:
        return content.decode().removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8 (byte {error.start})") from None


def read_object(path: Path, form: type[BaseModel] | None = None) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        form: what its keys must be, as far as they are there.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it cannot be read, is no JSON object, or a key is not of the form; in one line.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    if "\\ud" in text.lower():  # JSON can escape half of a character, which cannot be written again
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"it contains half of a surrogate pair (\\u{ord(error.object[error.start]):x})") from None
    if not isinstance(content, dict):
        raise ValueError(f"a JSON object is needed, this is a {type(content).__name__}")
    if form is not None:
        try:
            form.model_validate(content)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"]))
            if fault["type"] == "missing":
                raise ValueError(f"it has no '{place}'") from None
            raise ValueError(f"'{place}': {fault['msg']} (given: {shown(fault['input'])})") from None
    return content


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, replacing an existing one. Raises OSError."""
    staging = path.with_name(f".{path.name}.partial")
    try:
        staging.write_text(text, encoding="utf-8")
        os.replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def require_writable(directory: Path) -> None:
    """Raises OSError if nothing can be written there; creates nothing."""
    there = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"'{there}' is a file, not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"'{there}': permission denied")
