"""Files that users bring: a value, or one line that says why not."""

import json

import pytest

from hgsp_core.files import read_object


def test_half_a_character_is_refused_where_it_is_read_and_a_whole_one_is_not(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"notes": ["\U0001f600"]}))
    assert read_object(path) == {"notes": ["\U0001f600"]}
    path.write_text(json.dumps({"notes": ["\ud800"]}))
    with pytest.raises(ValueError, match=r"half of a character \(\\ud800\)"):
        read_object(path)
