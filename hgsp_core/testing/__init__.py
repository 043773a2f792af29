"""The conformance kit: what every plugin must hold, as checks to parametrize a test over.

    import pytest
    from hgsp_core.testing import architecture_checks, method_checks
    from my_plugin import FALCON, FIRST

    @pytest.mark.parametrize("check", architecture_checks(FALCON, FalconConfig(...)), ids=str)
    def test_falcon(check):
        check()

    @pytest.mark.parametrize("check", method_checks(FIRST, kind="scorer"), ids=str)
    def test_first(check):
        check()

Each check is one promise. It raises an AssertionError that says what is wrong and how to mend it; one that cannot tell
anything before another one holds is skipped. `check_distribution("my-plugin")` runs all that an installed plugin must hold.
"""

from hgsp_core.testing.architecture import architecture_checks
from hgsp_core.testing.check import Check
from hgsp_core.testing.distribution import Result, check_distribution
from hgsp_core.testing.method import method_checks

__all__ = ["Check", "Result", "architecture_checks", "check_distribution", "method_checks"]
