"""A text is read as far as it is needed, whatever form it has, and not a character further."""

import json

import pytest

from hgsp_core.data.errors import DataError
from hgsp_core.data.run import LONGEST_DOCUMENT, SEPARATOR, open_dataset, read_text

SENTENCE = "The function returns a list of the arguments that it was given.\n"


def text_of(path, characters):
    return read_text(open_dataset(str(path), {}, "here"), "calibration", characters, str(path))


def test_a_text_below_the_limit_is_read_whole(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n" + SENTENCE * 100 + "\n\n")
    assert text_of(path, len(SENTENCE)) == text_of(path, None) == (SENTENCE * 100).strip("\n")


def test_the_limit_holds_inside_a_document(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(SENTENCE * 40_000)
    assert text_of(path, 1000) == path.read_text()[:LONGEST_DOCUMENT].strip("\n")
    assert text_of(path, 2 * LONGEST_DOCUMENT) == path.read_text()[: 2 * LONGEST_DOCUMENT].strip("\n")
    assert text_of(path, None) == path.read_text().strip("\n")
    assert text_of(path, 10**30) == text_of(path, None)


def test_it_holds_in_records_too(tmp_path):
    path = tmp_path / "text.jsonl"
    documents = [SENTENCE, SENTENCE * 40_000, SENTENCE]
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    assert text_of(path, 1000) == SEPARATOR.join([SENTENCE.strip("\n"), documents[1][:LONGEST_DOCUMENT].strip("\n")])


def test_what_is_beyond_the_limit_is_not_read(tmp_path):
    """Bytes that are no text stand there, and nobody meets them."""
    path = tmp_path / "text.txt"
    path.write_bytes(SENTENCE.encode() * 40_000 + b"\xff\xfe")
    assert len(text_of(path, 1000)) <= LONGEST_DOCUMENT
    with pytest.raises(DataError, match="cannot be read"):
        text_of(path, None)
