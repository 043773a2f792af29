"""The base of all errors, those about what a user typed, and how text from outside is shown.

Every message a user can meet says what was wrong, where, and the fix. It is raised where the fault is known, by one of the
classes here or in the `errors.py` beside a stage; only the CLI turns one into a message on stderr and exit code 2.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

#: characters of a line of a message, and of a value that it repeats
_LONGEST_LINE, _LONGEST_VALUE = 1200, 100

#: user and password before a host; one slash is left of two where the text was a path
_LOGIN = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]+:/{1,2})[^\s/]+@")

_QUERY = re.compile(r"\b(https?:/{1,2}[^\s?'\"<>]+\?)[^\s'\"<>)]+")

_TOKEN = re.compile(r"\b(hf_|api_org_)[A-Za-z0-9]{16,}\b")

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _LONGEST_VALUE


def without_credentials(text: str) -> str:
    """The text with the passwords of addresses, their queries and tokens of the Hugging Face hub as `***`."""
    text = _QUERY.sub(r"\1***", _LOGIN.sub(r"\1***@", text))
    return _TOKEN.sub(r"\1***", text)


def holds_credentials(text: str) -> bool:
    return bool(_LOGIN.search(text) or _TOKEN.search(text))


def message(text: str) -> str:
    """A message that may quote anything: without credentials, and with control characters spelled out."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], without_credentials(text))


def shown(value: object) -> str:
    """A value as a message repeats it: as Python writes it, on one line, and shortened."""
    try:
        text = _REPR.repr(value)
    except ValueError:  # a number of thousands of digits
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


class HgspError(Exception):
    """A fault that the user can mend. `str(error)` is the whole message: place, fault, fix.

    It may quote anything from outside: credentials, control characters and the middle of long lines are left out.
    """

    def __init__(self, text: str = ""):
        super().__init__("\n".join(map(_line, without_credentials(text).split("\n"))))


def _line(text: str) -> str:
    if len(text) > _LONGEST_LINE:
        text = f"{text[: _LONGEST_LINE // 2]} … {text[-_LONGEST_LINE // 2 :]}"
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`; empty where no name is near."""
    known = sorted(set(known))
    near = get_close_matches(name, known, n=1) or get_close_matches(name.lower(), known, n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest name or, where none is near, all known names; empty where there are none."""
    known = sorted(set(known))
    return nearest(name, known) or (f" Known: {', '.join(known)}." if known else "")


def first_few(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def first_line(error: BaseException) -> str:
    """The first line of what a library raised, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def library_words(error: Exception, place: str) -> str:
    """What a library raised about the values in `place`; Python's own words for a wrong value say nothing without that."""
    reason = str(error).strip() or type(error).__name__
    if isinstance(error, (ArithmeticError, AttributeError, LookupError, TypeError)) or type(error) is ValueError:
        return f"{type(error).__name__}: {reason.rstrip('.')}. Check the values in {place}."
    return reason


class RecipeError(HgspError):
    """A recipe that cannot be used: syntax, unknown key, wrong type or range."""

    @classmethod
    def at(cls, source: str, place: str, fault: str, fix: str = "") -> RecipeError:
        return cls(f"{source}: {place}: {fault}{' ' + fix if fix else ''}")


class FlagError(HgspError):
    """Flags that contradict each other or the model, or that mean nothing together."""

    @classmethod
    def contradict(cls, one: tuple[str, object], other: tuple[str, object]) -> FlagError:
        return cls(
            f"{one[0]} {one[1]} and {other[0]} {other[1]} contradict each other: both set the same value. Remove one of them."
        )

    @classmethod
    def model_differs(cls, flag: str, given: int, model: str, there: int) -> FlagError:
        return cls(f"{flag} {given}: '{model}' has {there} (config.json). It is read from the model; remove the flag.")

    @classmethod
    def needs(cls, flag: str, other: str) -> FlagError:
        return cls(f"{flag} does nothing without {other}. Add {other}, or remove {flag}.")

    @classmethod
    def excludes(cls, flag: str, other: str, why: str) -> FlagError:
        return cls(f"{flag} and {other} cannot be combined: {why}. Remove one of them.")

    @classmethod
    def unused(cls, flags: Sequence[str], command: str) -> FlagError:
        return cls(f"{command}: {', '.join(flags)} would do nothing together with the other flags. Remove it.")

    @classmethod
    def nothing_to_measure(cls) -> FlagError:
        return cls("There is nothing to measure: --dataset none disables perplexity. Add --tasks or --efficiency.")

    @classmethod
    def other_key(cls, setting: str, part: str, example: str) -> FlagError:
        return cls(f"--set {setting}: only keys of '{part}' are allowed here, such as {example}.")

    @classmethod
    def strategy(cls, chosen: str | None, goes_with: Mapping[str, Sequence[str]]) -> FlagError:
        """`goes_with`: flag -> the values of --pruning_strategy that take it."""
        wrong = {flag: names for flag, names in goes_with.items() if chosen is None or chosen not in names}
        listed = "; ".join(f"{flag}: {', '.join(names)}" for flag, names in (wrong or goes_with).items())
        if chosen is not None and wrong:
            return cls(f"--pruning_strategy {chosen} does not accept {', '.join(wrong)}. Accepted by: {listed}.")
        return cls(f"No --pruning_strategy accepts {', '.join(goes_with)} together. Each is accepted by: {listed}.")

    @classmethod
    def unknown(cls, flag: str, given: str, known: Iterable[str]) -> FlagError:
        return cls(f"{flag}: there is no '{given}'.{did_you_mean(given, known)}")

    @classmethod
    def not_understood(cls, flag: str, given: str, form: str) -> FlagError:
        return cls(f"{flag} {given}: write it as {form}.")

    @classmethod
    def required(cls, flag: str, example: str) -> FlagError:
        return cls(f"{flag} is required, for example: {example}")

    @classmethod
    def no_file(cls, flag: str, path: Path, near: Iterable[str]) -> FlagError:
        return cls(f"{flag}: there is no file '{path}'.{did_you_mean(path.name, near)}")


class PathError(HgspError):
    """A path that cannot be followed."""

    @classmethod
    def no_user(cls, path: str) -> PathError:
        return cls(f"'{path}' cannot be resolved: there is no user {path.partition('/')[0]}. Write the path without ~.")

    @classmethod
    def characters(cls, path: str) -> PathError:
        return cls(
            f"{shown(path)} is not a valid path: it contains characters that are not allowed in file names. Write it in UTF-8."
        )

    @classmethod
    def too_long(cls, path: str, longest: int) -> PathError:
        return cls(f"{shown(path)} is not a valid path: one of its names is longer than {longest} bytes. Shorten it.")

    @classmethod
    def system(cls, error: OSError) -> PathError:
        place = f"'{error.filename}': " if error.filename else ""
        return cls(f"{place}{error.strerror or error}. Check the path, its permissions and the disk.")


class NumericError(HgspError):
    """NaN or infinity in the weights, or coming out of a layer, the loss or a collector."""

    @classmethod
    def overflow(cls, tensor: str, value: float, dtype: str, largest: float) -> NumericError:
        return cls(
            f"model.dtype: '{tensor}' contains {value:g}, which {dtype} cannot represent (at most {largest:g}). "
            "Use model.dtype: bfloat16, which has the range of float32, or float32."
        )

    @classmethod
    def weight(cls, tensor: str) -> NumericError:
        return cls(f"Tensor '{tensor}' contains NaN or infinity. The checkpoint is damaged: download or save it again.")

    @classmethod
    def activation(cls, layer: int, tensor: str, dtype: str) -> NumericError:
        return cls(
            f"Layer {layer}: {tensor} is NaN or infinite in {dtype}, although the weights are finite. "
            "Use a dtype with more range (model.dtype: float32 or bfloat16)."
        )

    @classmethod
    def loss(cls, value: float, dtype: str) -> NumericError:
        return cls(
            f"The loss over the calibration set is {value} in {dtype}, although every layer's output is finite: "
            "check the final norm and the head, or use a dtype with more range (model.dtype: float32 or bfloat16)."
        )

    @classmethod
    def evaluation(cls, value: float, dtype: str) -> NumericError:
        return cls(
            f"The loss over the evaluation text is {value} in {dtype}. Use a dtype with more range (float32 or bfloat16); "
            "if this does not help, the weights are damaged."
        )

    @classmethod
    def statistic(cls, layer: int, collector: str, name: str) -> NumericError:
        return cls(f"Layer {layer}: '{name}' of {collector} is NaN or infinite, although its inputs are finite.")


class ResourceError(HgspError):
    """Memory or disk that ran out."""

    @classmethod
    def memory(cls, reason: str) -> ResourceError:
        return cls(
            f"Out of memory{f' ({reason})' if reason else ''}. These settings help, most effective first: "
            "--set model.dtype=bfloat16, --set calibrate.batch_size=1, a smaller calibrate.seq_len, "
            "--set device=cpu if the GPU has less memory than the host. Finished measurements are kept and reused."
        )

    @classmethod
    def socket(cls, directory: str) -> ResourceError:
        return cls(
            f"TMPDIR: the path '{directory}' is too long for the sockets between processes (about 70 characters). "
            "Set TMPDIR to a shorter one."
        )

    @classmethod
    def disk(cls, reason: str) -> ResourceError:
        return cls(
            f"No space left on the disk ({reason}). Make room, or use another disk: --output DIR for the result, "
            "--cache DIR (or HGSP_CACHE) for the store, TMPDIR for temporary files. Then run it again."
        )
