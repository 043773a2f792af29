"""`curvature` with the order of another scorer: its ranking inside each block, the prices of curvature between them."""

import numpy as np
import pytest

from hgsp_core import plan
from hgsp_core.artifacts import Scores
from hgsp_core.errors import RecipeError
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.runtime.store import Store
from hgsp_core.score.scorers import reordered
from tests.helpers.allocate_models import small, spread_scores
from tests.helpers.command import ROOT
from tests.helpers.told import Told

RECIPE = f"""
model: {{path: {ROOT / "models" / "pydoc-llama"}}}
calibrate: {{dataset: pydoc, samples: 8}}
score: {{use: SCORE}}
allocate: {{with: {{ratio: 0.3, of: layers}}}}
reconstruct: {{use: none}}
output: nowhere
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


def decided(score, store, monitor=None, settings=None):
    return plan(parse_recipe(RECIPE.replace("SCORE", score), "test"), monitor, store, settings=settings or {}).decision


def test_each_block_keeps_its_prices_and_takes_the_other_order():
    layout = small()
    order = spread_scores(layout)
    rng = np.random.default_rng(0)
    prices = Scores.of(layout, [{n: rng.random(b.units) for n, b in la.blocks.items()} for la in layout.layers])
    found = reordered(prices, order)
    for block in layout.blocks():
        rows = prices.units_of(block.layer, block.axis.name)
        np.testing.assert_array_equal(np.sort(found.importance[rows]), np.sort(prices.importance[rows]))
        np.testing.assert_array_equal(found.score[rows], found.importance[rows] / prices.cost[rows])
        in_order = rows[np.argsort(order.score[rows], kind="stable")]
        assert (np.diff(found.score[in_order]) >= 0).all()


def test_its_own_order_changes_nothing(store):
    mine = decided("curvature, with: {order: curvature}", store)
    assert mine.plan == decided("curvature", store).plan


def test_sizes_are_those_of_curvature_and_units_those_of_the_other_scorer(store):
    priced, plain = decided("curvature, with: {order: wanda}", store), decided("curvature", store)
    wanda = decided("wanda", store, settings={"allocate": {"use": "uniform", "with": {"ratio": 0.3}}})
    assert priced.predicted_kl == pytest.approx(plain.predicted_kl, rel=0.02)  # two steps: the second model differs
    first = priced.scores
    for block in priced.source.layout.blocks():
        rows = first.units_of(block.layer, block.axis.name)
        kept = priced.plan.block(block).kept
        assert len(kept) == pytest.approx(len(plain.plan.block(block).kept), abs=0.2 * block.units)
        assert len(rows) == block.units
    assert priced.plan != wanda.plan


def test_a_scorer_whose_scores_are_not_comparable_is_pointed_to_the_prices(store):
    monitor = Told()
    decided("wanda", store, monitor)
    assert any("score: {use: curvature, with: {order: wanda}}" in text for text in monitor.said)
    for score, more in (("curvature", {}), ("wanda", {"normalize": [{"use": "zscore"}]})):
        monitor = Told()
        decided(score, store, monitor, more)
        assert not any("comparable" in text for text in monitor.said)


def test_an_order_that_is_no_scorer_is_named_with_the_nearest_one():
    with pytest.raises(RecipeError, match=r"score\.with\.order.*wnada.*wanda"):
        parse_recipe(RECIPE.replace("SCORE", "curvature, with: {order: wnada}"), "test")
