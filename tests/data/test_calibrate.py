"""One calibration set from several texts: each text's own windows, at its share, spread evenly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hgsp_core.data.calibrate import calibrate
from hgsp_core.data.errors import DataError
from hgsp_core.data.run import calibration_texts, spread
from hgsp_core.repair.sequential import HELD_OUT
from hgsp_core.runtime.recipe import CalibratePart, ModelPart, TextShare
from hgsp_core.runtime.source import open_model
from hgsp_core.runtime.store import Store
from tests.helpers.command import MODEL

#: what runs had before a calibration set could have several texts: pydoc, 16 windows of 64 tokens, seed 0
TOKENS = "ceb1af2d132aa1689fd41444a69c285bc05f5905a5aa8aade33919209c5d1d01"
KEY = "f2d2246a5e60fb81159531b77e2f691df36d63d4a460de40cd02da296993b413"


@pytest.fixture(scope="module")
def source():
    return open_model(ModelPart(path=str(MODEL)))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"In line {i} stands the number {i * i}, and nothing else." for i in range(2000)))
    return str(path)


def calibrated(source, folder, reused=None, **part):
    part = CalibratePart.model_validate({"samples": 16, "seq_len": 64, **part})
    return calibrate(part, calibration_texts(part), source, Store(folder), {} if reused is None else reused)


@pytest.mark.parametrize("dataset", ["pydoc", ["pydoc"], [{"use": "pydoc", "share": 3}]], ids=str)
def test_a_single_text_keeps_its_tokens_its_place_in_the_store_and_its_report(source, tmp_path, dataset):
    found = calibrated(source, tmp_path, dataset=dataset)
    assert found.describe() == {
        "dataset": "pydoc", "samples": 16, "seq_len": 64, "seed": 0, "tokens_sha256": TOKENS
    }  # fmt: skip
    assert [path.stem for path in (tmp_path / "calibration").iterdir()] == [KEY]
    assert not found.source.any()


def test_a_text_has_the_windows_in_a_mixture_that_it_has_alone(source, tmp_path, text):
    found = calibrated(source, tmp_path, dataset=["pydoc", {"use": text, "share": 3}])
    assert found.texts == ("pydoc", text)
    for index, (name, samples) in enumerate([("pydoc", 4), (text, 12)]):
        alone = calibrated(source, tmp_path / name.lstrip("/"), dataset=name, samples=samples)
        assert np.array_equal(found.tokens[found.source == index], alone.tokens)
    assert found.describe()["windows"] == {"pydoc": 4, text: 12}
    assert found.describe()["dataset"] == f"pydoc, {text}"


def test_a_mixture_is_found_in_the_store_with_the_text_of_each_window(source, tmp_path, text):
    reused = {}
    first = calibrated(source, tmp_path, reused, dataset=["pydoc", text])
    assert not reused
    again = calibrated(source, tmp_path, reused, dataset=["pydoc", text])
    assert list(reused) == ["calibration pydoc", f"calibration {text}"]
    assert again.sha256 == first.sha256
    assert np.array_equal(again.source, first.source)


def test_windows_of_another_stride_are_not_taken_for_these(source, tmp_path):
    reused = {}
    plain, overlapping = (calibrated(source, tmp_path, reused, dataset="pydoc", stride=s) for s in (0, 32))
    assert not reused
    assert plain.sha256 != overlapping.sha256


def test_a_dataset_with_other_parameters_has_another_name(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "story": "b"}\n')
    part = CalibratePart.model_validate({"dataset": [str(path), {"use": str(path), "with": {"column": "story"}}]})
    assert [text.name for text in calibration_texts(part)] == [str(path), f"{path}#2"]


def test_an_unknown_text_is_named_with_its_place(text):
    with pytest.raises(DataError, match=r"calibrate\.dataset\.1: There is no dataset 'pydok'"):
        calibration_texts(CalibratePart.model_validate({"dataset": [text, "pydok"]}))


def test_a_text_that_is_too_short_is_named_with_its_windows(source, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("one two three four " * 40)
    with pytest.raises(DataError) as caught:
        calibrated(source, tmp_path, dataset=["pydoc", str(path)])
    said = str(caught.value)
    assert f"'{path}' has only " in said
    assert "its share of the 16 is 8" in said


COUNTS = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(COUNTS)
def test_every_text_has_its_share_of_the_first_windows_to_less_than_one(counts):
    source, total = spread(counts), sum(counts)
    assert np.bincount(source).tolist() == counts
    so_far = np.cumsum(source[:, None] == np.arange(len(counts)), axis=0)
    expected = np.arange(1, total + 1)[:, None] * np.array(counts) / total
    assert np.abs(so_far - expected).max() < 1


@settings(max_examples=300, deadline=None)
@given(COUNTS)
def test_every_text_of_eight_windows_is_among_the_held_out_ones(counts):
    source = spread(counts)
    held_out = source[-max(1, round(len(source) * HELD_OUT)) :]
    assert {i for i, n in enumerate(counts) if n >= 8} <= set(held_out.tolist())


def test_two_texts_of_one_size_take_turns():
    assert spread([4, 4]).tolist() == [0, 1] * 4


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10_000), st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6))
def test_windows_are_the_shares_to_less_than_one(samples, shares):
    names = [TextShare(use=f"{i}.txt", share=share) for i, share in enumerate(shares)]
    part = CalibratePart.model_construct(dataset=tuple(names), samples=samples)
    assert sum(part.windows) == samples
    exact = [samples * share / sum(shares) for share in shares]
    assert all(abs(n - quota) < 1 + 1e-9 for n, quota in zip(part.windows, exact, strict=True))
