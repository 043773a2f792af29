"""What a search asked is kept in the store: it goes on where it was, and asks nothing twice."""

import numpy as np
import pytest

from hgsp_core.allocate.judge import Judge
from hgsp_core.allocate.judgement import StoredJudge
from hgsp_core.pipeline import forecast
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.runtime.store import Store
from tests.helpers.command import MODEL

TEXT = f"model: {{path: {MODEL}}}\ncalibrate: {{dataset: pydoc, samples: 12, seq_len: 32}}\noutput: nowhere\n"


def decide(*arguments):
    return forecast(*arguments).decision


def decided(store, *settings):
    return decide(parse_recipe(TEXT, "r", ["allocate.with.moves=1", *settings]), LogMonitor(), Store(store))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return store, decided(store)


def test_a_search_that_was_made_before_judges_nothing(first, monkeypatch):
    store, once = first
    monkeypatch.setattr(StoredJudge, "_open", lambda self: pytest.fail("judged again"))
    again = decided(store)
    assert again.plan == once.plan
    assert once.judge.saved == 0 < again.judge.saved
    assert all(
        again.judge.repaired(once.plan, half).tolist() == once.judge.repaired(once.plan, half).tolist()
        for half in (0, 1)
    )


def test_a_search_that_was_cut_off_judges_the_rest(first, monkeypatch, tmp_path):
    store, once = first
    asked = []
    for method in ("__call__", "repaired"):
        real = getattr(Judge, method)
        monkeypatch.setattr(Judge, method, lambda self, *args, real=real: (asked.append(args), real(self, *args))[1])
    files = sorted((store / "judgement").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for file in files[-4:]:
        file.unlink()
    assert decided(store).plan == once.plan
    assert len(asked) == 4


def test_halves_plans_and_repairs_are_told_apart(first):
    store, once = first
    found = [once.judge.repaired(once.plan, half) for half in (0, 1)]
    assert all(kl.shape == (5,) and (kl > 0).all() for kl in found)
    assert not np.array_equal(*found)
    other = decided(store, "reconstruct.use=none", "allocate.with.moves=0")
    assert not np.array_equal(other.judge.repaired(once.plan, 0), found[0])
    assert other.judge(once.plan) == once.judge(once.plan)


def test_every_process_has_a_window_to_judge(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "5")  # as a launcher sets it; this process is alone
    assert decided(tmp_path, "allocate.with.moves=0").judge._samples == 5
