"""Every method of this plugin passes the conformance kit."""

import pytest

from hgsp_core.plugin import registry
from hgsp_core.testing import method_checks

ENTRIES = [entry for entry in registry.installed().entries if entry.distribution == "hgsp-baselines"]
CHECKS = {
    f"{entry.kind}-{entry.name}-{check}": check
    for entry in ENTRIES
    for check in method_checks(entry.method, entry.kind)
}
OTHER_PARAMS = {
    f"{importance}-{check}": check
    for importance in ("mixed", "vector")
    for entry in ENTRIES
    if entry.name == "llm_pruner"
    for check in method_checks(entry.method, entry.kind, {"importance": importance})
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_with_defaults(check):
    check()


@pytest.mark.parametrize("check", OTHER_PARAMS.values(), ids=OTHER_PARAMS)
def test_every_importance_of_llm_pruner(check):
    check()
