"""Every method that hgsp-core registers passes the conformance kit."""

import json
import tempfile
from pathlib import Path

import pytest

from hgsp_core.plugin import registry
from hgsp_core.testing import method_checks
from hgsp_core.testing.model import LAYERS, sample_layout
from hgsp_core.testing.plans import same_sizes

DEMO_TEXT = str(Path(registry.__file__).parents[1] / "texts" / "pydoc" / "evaluation.txt")
FILES = Path(tempfile.mkdtemp(prefix="hgsp-files-"))
PRIORS, PLAN = FILES / "priors.json", FILES / "plan.json"
PRIORS.write_text(json.dumps({"layer": [1.0] * LAYERS}))
PLAN.write_text(json.dumps(same_sizes(sample_layout(), {"mlp"}).to_json(sample_layout(), "sample", "")))
#: what a recipe cannot leave out
PARAMS = {
    ("dataset", "file"): {"path": DEMO_TEXT},
    ("prior", "file"): {"path": str(PRIORS)},
    ("allocator", "plan"): {"path": str(PLAN)},
    ("evaluator", "perplexity"): {"datasets": ["pydoc"]},
}
#: these download their text: here, without a network, only what they declare is checked
FROM_THE_HUB = ("hub", "wikitext2", "ptb", "c4")
#: a plan in a file is for one model
OF_ONE_MODEL = "allocator-plan-plans_fit_layers_that_differ"

CHECKS = {
    f"{entry.kind}-{entry.name}-{check}": check
    for entry in registry.installed().entries
    if entry.distribution == "hgsp-core"
    for check in method_checks(entry.method, entry.kind, PARAMS.get((entry.kind, entry.name)))
    if entry.name not in FROM_THE_HUB or check.name not in ("documents_are_text", "is_deterministic")
}
del CHECKS[OF_ONE_MODEL]


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_builtin(check):
    check()
