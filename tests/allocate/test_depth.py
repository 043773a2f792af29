"""Depth pruning: the layers of least prior go whole."""

from __future__ import annotations

import numpy as np
import pytest

from hgsp_core.allocate.contract import AllocateJob
from hgsp_core.allocate.depth import Depth, DepthParams
from hgsp_core.artifacts import Plan, Priors
from hgsp_core.artifacts.errors import PlanError
from tests.helpers.allocate_models import job, sizes, small, spread_scores

PRIOR = np.array([9.0, 0.5, 3.0, 0.2, 0.5, 7.0])


def plan_of(prior=PRIOR, **params) -> Plan:
    layout = small(layers=len(prior))
    return Depth(DepthParams(**params))(AllocateJob(layout, spread_scores(layout), Priors(np.asarray(prior), {})))


def test_the_n_layers_of_least_prior_go_and_nothing_else():
    plan = plan_of(n_remove_layers=3)
    assert plan.kept_layers() == [0, 2, 5]
    assert plan.is_uniform()
    assert sizes(plan)[0] == (4, 64)
    assert not plan.notes
    assert plan.target == plan.parameters_after(small())


def test_equal_priors_go_in_order_of_depth():
    assert plan_of(n_remove_layers=2).kept_layers() == [0, 2, 4, 5]


def test_as_many_layers_go_as_the_ratio_pays_for_and_the_rest_is_noted():
    layout = small()
    plan = plan_of(ratio=0.4, of="layers")  # 2.4 layers
    assert plan.kept_layers() == [0, 2, 4, 5]
    assert plan.removed(layout) <= plan.before - plan.target
    assert "only entire layers are removed" in plan.notes[0]


def test_a_ratio_of_less_than_one_layer_removes_nothing_and_says_so():
    plan = plan_of(ratio=0.1, of="layers")
    assert len(plan.kept_layers()) == 6
    assert "100.00%" in plan.notes[0]


def test_frozen_layers_stay():
    limits = {"freeze_first": 1, "freeze_last": 2, "freeze_most_important": 1, "layer_start": 1}
    assert plan_of(n_remove_layers=3, limits=limits).kept_layers() == [0, 4, 5]
    limits = {"layer_start": 2, "layer_end": 4}
    assert plan_of(n_remove_layers=2, limits=limits).kept_layers() == [0, 1, 4, 5]


def test_one_layer_always_stays():
    assert plan_of(n_remove_layers=5).kept_layers() == [0]
    with pytest.raises(PlanError, match="6 layers cannot be removed; at most 5 can, because one must be kept"):
        plan_of(n_remove_layers=6)


def test_more_layers_or_a_higher_ratio_than_the_limits_leave_are_refused():
    with pytest.raises(
        PlanError, match=r"3 layers cannot be removed; at most 2 can with .*allocate.with.limits.freeze_first: 4"
    ):
        plan_of(n_remove_layers=3, limits={"freeze_first": 4})
    with pytest.raises(
        PlanError, match=r"0.8 of the decoder layers' parameters cannot be removed; at most 0.3333 is possible"
    ):
        plan_of(ratio=0.8, of="layers", limits={"freeze_first": 4})


def test_a_plan_is_the_same_on_every_call():
    task = job(small())
    depth = Depth(DepthParams(ratio=0.5))
    assert depth.needs_priors
    assert depth(task) == depth(task)
