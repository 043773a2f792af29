"""A plugin that means `hgsp_scorers`."""

from hgsp_core import Method, hookimpl


@hookimpl
def hgsp_scorer():
    return [Method("mine", "nowhere:Mine")]
