"""A plugin that gives one name to two scorers."""

from hgsp_core import Method, hookimpl


@hookimpl
def hgsp_scorers():
    return [Method("mine", "nowhere:Mine"), Method("mine", "nowhere:Other")]
