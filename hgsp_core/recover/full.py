"""Full finetuning: all weights, in fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hgsp_core.recover.contract import RecoverJob
from hgsp_core.recover.trained import Trained
from hgsp_core.recover.training_params import FullParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Full(Trained[FullParams]):
    """Trains all weights in fp32.

    Cost: 16 bytes of memory a parameter, and activations.
    When: there is memory for it.
    Notes: fp32 holds whatever dtype the weights are stored in: steps of AdamW are smaller than bf16 resolves.
    """

    def bytes_per_parameter(self, stored: str) -> int:
        return 16  # weight, gradient and AdamW's two moments

    def attach(self, model: PreTrainedModel, job: RecoverJob) -> PreTrainedModel:
        return model.float().requires_grad_(True)

    def detach(self, model: PreTrainedModel) -> PreTrainedModel:
        return model
