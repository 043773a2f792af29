"""Datasets: the embedded text, local files, hub ids. Parsing is left to the `datasets` library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from hgsp_core.data.contract import Dataset, DatasetJob
from hgsp_core.data.errors import DataError
from hgsp_core.files.paths import TEXT_FILES, expanded
from hgsp_core.plugin.method import Params

#: suffix -> builder of the `datasets` library
BUILDERS = dict(zip(TEXT_FILES, ("text", "json", "json", "parquet"), strict=True))


class Records(Protocol):
    """Rows as `datasets` gives them, and the names of their columns where they are known."""

    column_names: list[str] | None

    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...


class FileParams(Params):
    path: str = Field("", description="path of the file; a recipe gives it as the dataset's name")
    column: str = Field("text", min_length=1, description="column (JSON key) with the text; ignored for .txt")


class HubParams(Params):
    path: str = Field("", description="hub id owner/name; a recipe gives it as the dataset's name")
    config: str | None = Field(None, description="configuration of the dataset, if it has several")
    column: str = Field("text", min_length=1, description="column with the text")
    calibration_split: str = Field("train", min_length=1, description="split used for calibration")
    evaluation_split: str = Field("test", min_length=1, description="split used for perplexity")
    revision: str | None = Field(None, description="branch, tag or commit")


def _preset(key: str, value: str) -> Any:  # as pydantic's Field
    """A field of HubParams with another default and the same description."""
    return Field(value, description=HubParams.model_fields[key].description)


class Wikitext2Params(HubParams):
    path: str = _preset("path", "Salesforce/wikitext")
    config: str | None = _preset("config", "wikitext-2-raw-v1")


class C4Params(HubParams):
    path: str = _preset("path", "allenai/c4")
    config: str | None = _preset("config", "en")
    evaluation_split: str = _preset("evaluation_split", "validation")


class PTBParams(HubParams):
    path: str = _preset("path", "FALcon6/ptb_text_only")
    column: str = _preset("column", "sentence")


class Pydoc(Dataset[Params]):
    """Python's own documentation: the text that the demo model was trained on; `evaluation` documents were held out."""

    def __call__(self, job: DatasetJob) -> Iterator[str]:
        file = resources.files("hgsp_core") / "texts" / "pydoc" / f"{job.split}.txt"
        yield file.read_text(encoding="utf-8")


class File(Dataset[FileParams]):
    """A local .txt (one document), .json, .jsonl or .parquet (one document a row)."""

    def __call__(self, job: DatasetJob) -> Iterator[str]:
        path = self._found()
        if path.suffix == ".txt":
            yield _read(path, job.characters)
        else:
            yield from _column(_records(path), self.params.column, str(path))

    def rows(self, job: DatasetJob) -> Records | None:
        """The records with all their columns, or None for plain text."""
        path = self._found()
        return None if path.suffix == ".txt" else _records(path)

    def _found(self) -> Path:
        path = expanded(self.params.path)
        if path.suffix not in BUILDERS:
            raise DataError.suffix(str(path), list(BUILDERS))
        if not path.is_file():
            near = [p.name for p in path.parent.glob("*") if p.suffix in BUILDERS] if path.parent.is_dir() else []
            raise DataError.no_file(str(path), near)
        return path


class Hub(Dataset[HubParams]):
    """Any dataset of the hub (or a local directory in its form), streamed: only what is used is read."""

    def __call__(self, job: DatasetJob) -> Iterator[str]:
        yield from _column(self.rows(job), self.params.column, self.params.path)

    def rows(self, job: DatasetJob) -> Records:
        """The records with all their columns."""
        p = self.params
        split = p.calibration_split if job.split == "calibration" else p.evaluation_split
        return _load(p.path, p.config, split=split, streaming=True, revision=p.revision, name=p.path)


def _read(path: Path, characters: int | None) -> str:
    """The text, up to `characters`."""
    try:
        with path.open(encoding="utf-8") as file:
            longer = characters is not None and characters < path.stat().st_size
            return file.read(characters if longer else None)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError.unreadable(str(path), error) from None


def _records(path: Path) -> Records:
    if path.stat().st_size == 0:
        raise DataError.empty(str(path))
    return _load(BUILDERS[path.suffix], data_files=str(path.resolve()), split="train", name=str(path))


def _load(*args: str | None, name: str, **kwargs: str | bool | None) -> Records:
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - the library raises dozens of types for a missing or damaged source
        cause = error.__cause__ or error
        if "corresponds to no data" in str(cause):  # a file that can be read and has no row
            raise DataError.empty(name) from None
        raise (DataError.unreadable if "data_files" in kwargs else DataError.hub)(name, cause) from None


def _column(rows: Records, column: str, name: str) -> Iterator[str]:
    if rows.column_names is not None and column not in rows.column_names:
        raise DataError.no_column(name, column, rows.column_names)
    for number, row in enumerate(rows):
        if not isinstance(row[column], str):
            fault = f"row {number}: '{column}' is {type(row[column]).__name__}, not text"
            raise DataError.unreadable(name, TypeError(fault))
        yield row[column]
