"""Exceptions -> one message on stderr and an exit code: 2 what the user can mend, 1 our own fault, 130 interrupted."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hgsp_core.errors import HgspError, ResourceError
from hgsp_core.outside import message, without_credentials

DEBUG = "HGSP_DEBUG"


@contextmanager
def readable_faults() -> Iterator[None]:
    """What escapes from the block ends the process with a message; with a traceback only where HGSP_DEBUG is set."""
    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the outermost frame: nothing may pass it unexplained
        if os.environ.get(DEBUG):
            print(without_credentials(traceback.format_exc()), file=sys.stderr)
        known = error if isinstance(error, HgspError) else _exhausted(error)
        print(f"Error: {known or _unexpected(error)}", file=sys.stderr)
        sys.exit(2 if known else 1)


def _exhausted(error: Exception) -> ResourceError | None:
    """Memory or disk that ran out, however the library in between put it; None for anything else."""
    text = str(error)
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in text:
        return ResourceError.memory(text.partition("\n")[0])
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        return ResourceError.disk(text.partition("\n")[0])
    return None


def _unexpected(error: Exception) -> str:
    """One line, and where the whole story is."""
    with tempfile.NamedTemporaryFile("w", prefix="hgsp-", suffix=".log", delete=False, encoding="utf-8") as file:
        file.write(without_credentials("".join(traceback.format_exception(error))))
    line = message(str(error).strip().partition("\n")[0])
    return (
        f"{type(error).__name__}: {line}\n"
        f"This is a fault of hgsp or of a plugin. The details are in {file.name} (or set {DEBUG}=1 to see them here)."
    )
