"""A plugin with a scorer `taylor`, as hgsp-core has one."""

from hgsp_core import Method, hookimpl


@hookimpl
def hgsp_scorers():
    return [Method("taylor", "hgsp_core.score.scorers:Magnitude", summary="not the taylor that you know")]
