"""Whatever lies where a file should be ends in its content or in one line that says why not; nothing is waited for."""

import json
import os
import re

import pytest

from hgsp_core.errors import PathError
from hgsp_core.files.forms import ModelConfig, Record, Report
from hgsp_core.files.paths import expanded
from hgsp_core.files.text import read_object, read_text, require_writable, write_text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[]", "a JSON object is needed, this is a list"),
        (b"\xff\xfe{\x00}\x00", "it is not text in UTF-8"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"hidden_size": "x"}', "'hidden_size': Input should be a valid integer (given: 'x')"),
        (b'{"num_hidden_layers": 1000000000}', "'num_hidden_layers'"),
        (b'{"rope_theta": NaN}', "'rope_theta': Input should be a finite number"),
        (b'{"layer_types": 5}', "'layer_types': Input should be a valid list (given: 5)"),
        (b'{"per_layer_config": []}', "'per_layer_config'"),
        (b'{"auto_map": ["x"]}', "'auto_map'"),
        (b'{"quantization_config": "gptq"}', "'quantization_config'"),
    ],
    ids=lambda value: None,
)
def test_a_file_that_is_no_object_of_the_form(tmp_path, content, reason):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        read_object(path, ModelConfig)
    assert "\n" not in str(caught.value)


def test_a_long_value_is_not_repeated_whole(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"hidden_size": "x" * 100_000}))
    with pytest.raises(ValueError, match="'hidden_size'") as caught:
        read_object(path, ModelConfig)
    assert len(str(caught.value)) < 300


def test_a_directory_a_pipe_and_a_device_are_named_and_not_waited_for(tmp_path):
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to("circle")
    for name, reason in [
        ("directory", "it is a directory"),
        ("pipe", "a device or a pipe"),
        ("device", "a device or a pipe"),
        ("circle", "symbolic links"),
        ("x" * 300, "File name too long"),
    ]:
        with pytest.raises(ValueError, match=reason):
            read_text(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nowhere")


def test_a_file_that_is_too_large_is_not_read_on(tmp_path):
    (tmp_path / "large").write_text("x" * 101)
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        read_text(tmp_path / "large", 100)


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_text(tmp_path):
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    assert read_text(tmp_path / "text") == "a\nb\n"


def test_keys_within_keys_are_named(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"after": {"perplexity": {"pydoc": "low"}}}))
    with pytest.raises(ValueError, match=r"'after\.perplexity\.pydoc"):
        read_object(path, Report)
    path.write_text(json.dumps({"after": {"perplexity_protocol": 5}}))
    with pytest.raises(ValueError, match="perplexity_protocol"):
        read_object(path, Report)


def test_a_record_whose_parts_do_not_belong_together_is_none(tmp_path):
    path = tmp_path / "hgsp.json"
    record = {"version": 1, "family": "llama", "dtype": "float32", "files": {}}
    for tokens, values, fits in [
        ([[1, 2]], [[[0.5], [0.25]]], True),
        ([[1, 2]], [[[0.5]]], False),
        ([[1], [2, 3]], [[[1.0]]], False),
    ]:
        path.write_text(json.dumps(record | {"logits": {"tokens": tokens, "columns": [3], "values": values}}))
        if fits:
            assert read_object(path, Record)["logits"]["columns"] == [3]
        else:
            with pytest.raises(ValueError, match="do not belong together"):
                read_object(path, Record)


def test_a_tilde_means_the_home_directory_and_nobody_has_none(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(expanded("~/models")) == "/home/me/models"
    assert str(expanded("a/~")) == "a/~"
    with pytest.raises(PathError, match="there is no user ~a_user_that_nobody_is"):
        expanded("~a_user_that_nobody_is/models")
    with pytest.raises(PathError, match="longer than 255 bytes"):
        expanded("a/" + "é" * 128)
    for path in ("a\0b", "a\udcffb"):
        with pytest.raises(PathError, match="characters that are not allowed in file names"):
            expanded(path)


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "there").write_text("before")
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "there", "after")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "before"


def test_a_place_below_a_file_is_known_not_to_take_anything(tmp_path):
    (tmp_path / "file").write_text("")
    require_writable(tmp_path / "not" / "there" / "yet")
    for place in ("file", "file/below", "x" * 300):
        with pytest.raises(OSError, match=r"file|too long"):
            require_writable(tmp_path / place)


def test_half_a_character_is_refused_where_it_is_read_and_a_whole_one_is_not(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"notes": ["\U0001f600"]}))
    assert read_object(path) == {"notes": ["\U0001f600"]}
    path.write_text(json.dumps({"notes": ["\ud800"]}))
    with pytest.raises(ValueError, match=r"half of a surrogate pair \(\\ud800\)"):
        read_object(path)
