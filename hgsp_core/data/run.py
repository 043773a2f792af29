"""Text and tokens: a dataset by name, and the token windows cut from it.

A dataset is, in this order: a registered name (`dist/name` too), a local file, a hub id. All of them give documents; the
rest is done here, once, so that every method and every evaluation sees the same tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import ValidationError

from hgsp_core.artifacts import Calibration
from hgsp_core.data.contract import Dataset, DatasetJob
from hgsp_core.data.datasets import BUILDERS
from hgsp_core.data.errors import DataError
from hgsp_core.files.paths import expanded
from hgsp_core.plugin import registry
from hgsp_core.plugin.errors import PluginError
from hgsp_core.runtime.recipe import CalibratePart

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "\n\n"
#: characters read per token wanted: calibration windows are drawn from the first part of a text this many times too large
CHARACTERS_PER_TOKEN = 64
#: least number of characters used of a document; more cost time and add nothing
LONGEST_DOCUMENT = 2**19


def open_dataset(name: str, params: Mapping[str, Any], place: str) -> Dataset[Any]:
    """The dataset that a recipe means by `name`: a callable `DatasetJob -> documents`.

    Args:
        place: recipe key, for messages.

    Raises:
        DataError: no such name, file or id; unknown or wrong parameters.
    """
    try:
        entry, extra = registry.installed().find("dataset", name), dict[str, str]()
    except PluginError as error:
        path = expanded(name)
        if path.suffix in BUILDERS or path.exists():
            entry, extra = registry.installed().find("dataset", "file"), {"path": name}
        elif "/" in name:
            entry, extra = registry.installed().find("dataset", "hub"), {"path": name}
        else:
            forms = f"A local file ends in {', '.join(BUILDERS)}; a hub id has the form owner/name."
            raise DataError(f"{place}: {error}\n{forms}") from None
    try:
        ready = entry.declared.params(**{**params, **extra})
    except ValidationError as error:
        known = [field for field in entry.declared.params.model_fields if field not in extra]
        raise DataError.params(place, name, error, known) from None
    return registry.implementation(Dataset, entry)(ready)


@dataclass(frozen=True)
class CalibrationText:
    """A text of the calibration set, and how many of its windows are drawn."""

    name: str
    windows: int
    dataset: Dataset[Any]


def calibration_texts(part: CalibratePart) -> list[CalibrationText]:
    """The texts of a calibration set; a dataset with other parameters is NAME#2. Raises DataError as `open_dataset` does."""
    found: list[CalibrationText] = []
    times: Counter[str] = Counter()
    for (place, text), windows in zip(part.texts.items(), part.windows, strict=True):
        times[text.use] += 1
        name = text.use if times[text.use] == 1 else f"{text.use}#{times[text.use]}"
        found.append(CalibrationText(name, windows, open_dataset(text.use, text.with_, place)))
    return found


def dataset_job(split: str, characters: int | None) -> DatasetJob:
    """The job for about `characters` of text (None = all)."""
    return DatasetJob(split, None if characters is None else max(characters, LONGEST_DOCUMENT))


def read_text(dataset: Dataset[Any], split: str, characters: int | None, name: str) -> str:
    """The documents of a split joined by a blank line, up to about `characters` (None = all).

    A document is cut at `characters` too, or at LONGEST_DOCUMENT if that is more.

    Raises:
        DataError: there is no text at all.
    """
    job = dataset_job(split, characters)
    parts, length = [], 0
    for document in dataset(job):
        document = document[: job.characters]
        if document.strip():
            parts.append(document.strip("\n"))
            length += len(document)
        if characters is not None and length >= characters:
            break
    if not parts:
        raise DataError.empty(name)
    return SEPARATOR.join(parts)


def windows(text: str, tokenizer: PreTrainedTokenizerBase, seq_len: int, stride: int | None = None) -> np.ndarray:
    """Windows that begin `stride` tokens apart (None: `seq_len`, so without overlap), [windows, seq_len] int64.

    The tokens that do not fill the last one are dropped.
    """
    ids = np.asarray(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)
    if len(ids) < seq_len:
        return np.empty((0, 0), dtype=np.int64)
    return sliding_window_view(ids, seq_len)[:: stride or seq_len].copy()


def calibration_text(text: CalibrationText, part: CalibratePart) -> str:
    """The text that calibration windows are drawn from: the first part of the dataset's calibration split."""
    return read_text(text.dataset, "calibration", text.windows * part.seq_len * CHARACTERS_PER_TOKEN, text.name)


def require_rows(ids: np.ndarray, rows: int | None, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises DataError, which names the token, where an id has no row in an embedding of `rows` rows (None: not known)."""
    if rows is not None and ids.size and ids.max() >= rows:
        index = int(ids[ids >= rows].flat[0])
        token = tokenizer.decode([index])
        assert isinstance(token, str)  # of one list of ids
        raise DataError.no_row(name, token, index, rows)


def draw(
    content: str,
    tokenizer: PreTrainedTokenizerBase,
    part: CalibratePart,
    name: str,
    samples: int,
    rows: int | None = None,
) -> np.ndarray:
    """`samples` different windows of the text `name`, chosen by `part.seed`, in the order of the text. [samples, seq_len].

    Args:
        rows: of the model's embedding.

    Raises:
        DataError: the text has fewer windows than that, or a token that the embedding has no row for.
    """
    cut = windows(content, tokenizer, part.seq_len, part.stride or None)
    require_rows(cut, rows, tokenizer, name)
    if len(cut) < samples:
        raise DataError.too_short(name, len(cut), samples, part.seq_len, of=part.samples)
    chosen = np.sort(np.random.default_rng(part.seed).choice(len(cut), size=samples, replace=False))
    return cut[chosen]


def mixed(texts: Sequence[CalibrationText], drawn: Sequence[np.ndarray], seed: int) -> Calibration:
    """The windows of all texts as one set, in which each text's keep their order and are spread evenly."""
    source = spread([len(windows) for windows in drawn])
    tokens = np.empty((len(source), drawn[0].shape[1]), dtype=np.int64)
    for index, windows in enumerate(drawn):
        tokens[source == index] = windows
    return Calibration(tuple(text.name for text in texts), seed, tokens, source)


def spread(counts: Sequence[int]) -> np.ndarray:
    """Order of items of several kinds: in every first part, each kind has its share to less than one item. [sum of counts].

    It schedules the next item with the earliest deadline: item j of n must come in [j/n, (j + 1)/n) of the whole. Of
    equal deadlines the rarer kind comes first, so that kinds with one item in eight are in the last eighth.
    """
    total, placed = sum(counts), [0] * len(counts)
    order = np.empty(total, dtype=np.int64)
    for place in range(total):
        due = [i for i, n in enumerate(counts) if placed[i] * total < (place + 1) * n]
        kind = min(due, key=lambda i: (-(-(placed[i] + 1) * total // counts[i]), counts[i]))
        placed[kind] += 1
        order[place] = kind
    return order
