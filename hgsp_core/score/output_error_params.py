"""Parameters of `obs`; read without torch."""

from pydantic import Field

from hgsp_core.plugin.method import Params


class ObsParams(Params):
    damping: float = Field(
        0.01, gt=0, le=1, description="λ as a part of the mean diagonal of H: how far the refit is trusted, 0..1"
    )
