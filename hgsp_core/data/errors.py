"""Text that cannot be read or used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from hgsp_core.errors import HgspError, did_you_mean, first_line


class DataError(HgspError):
    """A dataset that is not there, cannot be read, or is too short."""

    @classmethod
    def params(cls, place: str, name: str, error: ValidationError, known: Sequence[str]) -> DataError:
        fault = error.errors()[0]
        key = ".".join(str(p) for p in fault["loc"])
        if fault["type"] == "extra_forbidden":
            return cls(f"{place}: the dataset '{name}' has no parameter '{key}'.{did_you_mean(key, known)}")
        return cls(f"{place}: the dataset '{name}', parameter '{key}': {fault['msg']} (given: {fault['input']!r}).")

    @classmethod
    def empty(cls, name: str) -> DataError:
        return cls(f"The dataset '{name}' contains no text. Choose another one, or check the file.")

    @classmethod
    def too_short(cls, name: str, there: int, samples: int, seq_len: int, of: int) -> DataError:
        """`samples` are wanted from this text; `of`: from all texts together."""
        asked, fewer = f"{samples} are requested", f"calibrate.samples (to {there} at most) or " if there else ""
        if samples < of:
            asked, fewer = f"its share of the {of} is {samples}", "its share, calibrate.samples or "
        return cls(
            f"The dataset '{name}' has only {there} windows of {seq_len} tokens, but {asked}. "
            f"Use a longer text, or lower {fewer}calibrate.seq_len."
        )

    @classmethod
    def no_row(cls, name: str, token: str, index: int, rows: int) -> DataError:
        return cls(
            f"The dataset '{name}' has the token {token!r}, whose id is {index}, but the model's embedding has {rows} rows (ids 0 to "
            f"{rows - 1}). The tokenizer belongs to another model, or tokens were added to it without enlarging the embedding "
            "(model.resize_token_embeddings). Use the model's own tokenizer, or a text without that token."
        )

    @classmethod
    def no_window(cls, name: str, seq_len: int) -> DataError:
        return cls(
            f"The dataset '{name}' has fewer than {seq_len} tokens: not enough for one window. Lower seq_len or use more text."
        )

    @classmethod
    def no_file(cls, path: str, near: Iterable[str]) -> DataError:
        return cls(f"There is no file '{path}'.{did_you_mean(path.rpartition('/')[2], near)}")

    @classmethod
    def suffix(cls, path: str, known: Sequence[str]) -> DataError:
        return cls(f"'{path}' is not a supported text file: its name must end in {', '.join(known)}.")

    @classmethod
    def unreadable(cls, path: str, error: BaseException) -> DataError:
        return cls(f"'{path}' cannot be read: {first_line(error)}")

    @classmethod
    def no_column(cls, name: str, column: str, there: Sequence[str]) -> DataError:
        return cls(f"'{name}' has no column '{column}' (with: {{column: NAME}}).{did_you_mean(column, there)}")

    @classmethod
    def hub(cls, name: str, error: BaseException) -> DataError:
        return cls(
            f"The dataset '{name}' could not be loaded from the hub: {first_line(error)}\n"
            "Check its name and the network (HF_HUB_OFFLINE), or use a local file or the bundled dataset 'pydoc'."
        )
