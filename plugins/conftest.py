"""Which tests of plugins are slow."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A fresh process takes seconds to start; one for each family is enough for every day."""
    tried = set()
    for item in items:
        check = getattr(item, "callspec", None) and item.callspec.params.get("check")
        if check is not None and check.name == "export_reloads":
            family = check.subject.architecture.model_type
            if family in tried:
                item.add_marker(pytest.mark.slow)
            tried.add(family)
