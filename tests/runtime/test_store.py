"""Artifacts come back as they were put, or not at all."""

import logging

import numpy as np
import pytest

from hgsp_core.runtime.errors import StoreError
from hgsp_core.runtime.store import Store, key_of

INPUTS = {"model": "abc", "seed": 1}
ARRAYS = {
    "0.mlp": np.arange(5.0),
    "0.attention": np.zeros((0,), np.float32),
    "n": np.array(3),
    "t": np.arange(6).reshape(2, 3).T,
}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_arrays_come_back_bit_for_bit(store):
    store.put("statistics", INPUTS, ARRAYS)
    back = store.get("statistics", INPUTS)
    assert back.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert np.array_equal(back[name], array)


def test_other_inputs_find_nothing(store):
    store.put("statistics", INPUTS, ARRAYS)
    assert store.get("statistics", INPUTS | {"seed": 2}) is None
    assert store.get("calibration", INPUTS) is None
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": "2"})


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_artifact_is_reported_and_not_served(store, damage, caplog):
    store.put("statistics", INPUTS, ARRAYS)
    path = store.path("statistics", INPUTS)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
    path.write_bytes({"truncate": content[:-8], "flip": content, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING, "hgsp"):
        assert store.get("statistics", INPUTS) is None
    assert "damaged" in caplog.text
    assert str(path) in caplog.text
    store.put("statistics", INPUTS, ARRAYS)
    assert store.get("statistics", INPUTS) is not None


def test_a_failed_write_leaves_nothing(store, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match=r"cannot be written to .*: No space left on device"):
        store.put("statistics", INPUTS, ARRAYS)
    assert not [p for p in store.root.rglob("*") if p.is_file()]
