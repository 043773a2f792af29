"""What ends a command -> one message on stderr and an exit code.

2 what the user can mend, 1 our own fault, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.errors import HgspError, PathError, ResourceError, message, without_credentials
from hgsp_core.runtime.stopping import Stopped, stoppable

DEBUG = "HGSP_DEBUG"
_INTERRUPTED = (
    "Interrupted. Unfinished results were removed; finished runs and measurements (the store) are kept. "
    "Run the same command again to resume."
)


@contextmanager
def readable_faults() -> Iterator[None]:
    """Exceptions of the block end the process with a message; with a traceback only if HGSP_DEBUG is set."""
    try:
        with stoppable():
            try:
                yield
            finally:
                _flush()
    except (Stopped, KeyboardInterrupt) as stop:
        _tell(_INTERRUPTED)
        sys.exit(stop.code if isinstance(stop, Stopped) else 130)
    except Exception as error:  # noqa: BLE001 - the outermost frame: nothing may pass it unexplained
        if os.environ.get(DEBUG):
            print(without_credentials(traceback.format_exc()), file=sys.stderr)
        known = error if isinstance(error, HgspError) else _of_the_machine(error)
        _tell(f"Error: {known or _unexpected(error)}")
        sys.exit(2 if known else 1)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what tokenizers and safetensors raise from Rust is no Exception
            raise
        _tell(f"Error: {CheckpointError.panic(error)}")
        sys.exit(2)


def _tell(message: str) -> None:
    with suppress(OSError):  # stderr is closed, or on the full disk
        print(message, file=sys.stderr)


def _flush() -> None:
    """Flush stdout. Raises OSError only once: the interpreter would flush again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _of_the_machine(error: Exception) -> HgspError | None:
    """The error for full memory or disk, or a file that the system refuses; None for anything else."""
    text = str(error)
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in text:
        return ResourceError.memory(text.partition("\n")[0])
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        return ResourceError.disk(text.partition("\n")[0])
    if "AF_UNIX path too long" in text:
        return ResourceError.socket(tempfile.gettempdir())
    if isinstance(error, OSError) and (error.filename is not None or error.errno is not None):
        return PathError.system(error)
    return None


def _unexpected(error: Exception) -> str:
    """One line, and where the traceback is."""
    line = message(str(error).strip().partition("\n")[0])
    line = f"{type(error).__name__}: {line}\nThis is a fault of hgsp or of a plugin. "
    try:
        with tempfile.NamedTemporaryFile("w", prefix="hgsp-", suffix=".log", delete=False, encoding="utf-8") as file:
            file.write(without_credentials("".join(traceback.format_exception(error))))
    except OSError:
        return f"{line}Set {DEBUG}=1 to see the details."
    return f"{line}The details are in {file.name} (or set {DEBUG}=1 to see them here)."
