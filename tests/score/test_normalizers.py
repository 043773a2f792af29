"""Normalizers change the balance between blocks, never the order inside one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hgsp_core.artifacts import Scores
from hgsp_core.plugin.method import Params
from hgsp_core.score.contract import NormalizeJob
from hgsp_core.score.normalizers import Clip, ClipParams, Keep, LevelParams, Log, MinMax, Sqrt, ZScore
from tests.helpers.allocate_models import jobs, small, spread_scores

LEVELLED = [Log, MinMax, ZScore, Sqrt]


def groups_of(scores: Scores, level: str) -> list[np.ndarray]:
    """Rows of the table, for each layer or for each block."""
    blocks = [[scores.units_of(layer, axis) for axis in scores.axes] for layer in np.unique(scores.layer)]
    return [np.concatenate(layer) for layer in blocks] if level == "layer" else [b for layer in blocks for b in layer]


def normalized(normalizer, level: str, scores: Scores) -> np.ndarray:
    return normalizer(LevelParams(level=level))(NormalizeJob(small(), scores)).score


@pytest.mark.parametrize("level", ["layer", "block"])
@pytest.mark.parametrize(
    ("normalizer", "formula"),
    [
        (Log, lambda x: np.log(x - x.min() + 1)),
        (MinMax, lambda x: (x - x.min()) / (x.max() - x.min())),
        (ZScore, lambda x: (x - x.mean()) / x.std()),
        (Sqrt, np.sqrt),
    ],
)
def test_each_formula_group_by_group(normalizer, formula, level):
    scores = spread_scores(small(), decades=4)
    got = normalized(normalizer, level, scores)
    for rows in groups_of(scores, level):
        assert np.allclose(got[rows], formula(scores.score[rows]), rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(jobs(), st.sampled_from(LEVELLED), st.sampled_from(["layer", "block"]), st.floats(-5, 5))
def test_order_inside_a_group_stays_and_everything_is_finite(job, normalizer, level, offset):
    scores = job.scores.with_score(job.scores.score + offset)
    got = normalized(normalizer, level, scores)
    assert np.isfinite(got).all()
    for rows in groups_of(scores, level):
        ordered = got[rows][np.argsort(scores.score[rows], kind="stable")]
        assert (np.diff(ordered) >= -1e-12).all()


@pytest.mark.parametrize("normalizer", LEVELLED)
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e-9, 3e5, -2.0])
def test_equal_scores_stay_equal_and_finite(normalizer, constant):
    scores = spread_scores(small())
    got = normalized(normalizer, "block", scores.with_score(np.full(len(scores), constant)))
    assert np.isfinite(got).all()
    assert np.ptp(got) == 0
    assert normalizer is Sqrt or got[0] == 0


def test_layers_whose_scales_differ_a_millionfold_come_to_one_scale():
    layout = small()
    scores = spread_scores(layout, decades=0)
    scaled = scores.with_score(scores.score * 1e6 ** (scores.layer / 5))
    for normalizer in (MinMax, ZScore):
        assert np.allclose(normalized(normalizer, "block", scaled), normalized(normalizer, "block", scores), atol=1e-6)

    def spread(score: np.ndarray) -> float:
        means = [score[rows].mean() for rows in groups_of(scaled, "layer")]
        return max(means) / min(means)

    raw = spread(scaled.score)
    assert raw > 1e5
    assert spread(normalized(Sqrt, "block", scaled)) < 2 * raw**0.5
    assert spread(normalized(Log, "block", scaled)) < raw / 10


def test_clip_moves_only_what_lies_outside_the_percentiles_of_all_units():
    scores = spread_scores(small(), decades=3)
    got = Clip(ClipParams(low=5, high=95))(NormalizeJob(small(), scores)).score
    low, high = np.percentile(scores.score, [5, 95])
    inside = (scores.score >= low) & (scores.score <= high)
    assert (got[inside] == scores.score[inside]).all()
    assert set(got[~inside]) == {low, high}
    assert 0.85 < inside.mean() < 0.95


def test_none_keeps_every_score():
    scores = spread_scores(small())
    assert Keep(Params())(NormalizeJob(small(), scores)) is scores


def test_normalizers_leave_their_input_as_it_was():
    scores = spread_scores(small())
    before = scores.score.copy()
    for normalizer in (*(n(LevelParams()) for n in LEVELLED), Clip(ClipParams())):
        result = normalizer(NormalizeJob(small(), scores))
        assert (scores.score == before).all()
        assert (result.importance == scores.importance).all()


@pytest.mark.parametrize(("low", "high"), [(95, 5), (50, 50), (-1, 95), (5, 101)])
def test_percentiles_out_of_order_or_range_are_refused(low, high):
    with pytest.raises(ValidationError):
        ClipParams(low=low, high=high)
