"""Every method that hgsp-core registers, and every installed plugin of this repository, passes the conformance kit."""

from pathlib import Path

import pytest

from hgsp_core import plugins
from hgsp_core.testing import method_checks

DEMO_TEXT = str(Path(plugins.__file__).parent / "data" / "pydoc" / "evaluation.txt")
#: what a recipe cannot leave out
PARAMS = {"file": {"path": DEMO_TEXT}, "perplexity": {"datasets": ["pydoc"]}}

CHECKS = {
    f"{entry.kind}-{entry.name}-{check}": check
    for entry in plugins.registry().entries
    if entry.distribution == "hgsp-core"
    for check in method_checks(entry.method, entry.kind, PARAMS.get(entry.name))
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_builtin(check):
    check()
