"""Full finetuning: all weights, in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hgsp_core.recover.contract import Recoverer, RecoverJob
from hgsp_core.recover.prepare import check_chats, prepare
from hgsp_core.recover.training_params import FullParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Full(Recoverer[FullParams]):
    """Trains all weights in fp32.

    Cost: 16 bytes of memory a parameter, and activations.
    When: there is memory for it.
    Notes: fp32 holds whatever number type the weights are stored in: steps of AdamW are smaller than bf16 resolves.
    """

    parallel = True

    def __init__(self, params: FullParams):
        super().__init__(params)
        self.records = prepare(params)

    def check(self, directory: Path) -> None:
        check_chats(self.records, directory)

    def __call__(self, job: RecoverJob) -> dict[str, Any]:
        from hgsp_core.recover.training import train

        return train(job, self.params, self.records, self)

    def bytes_per_parameter(self, stored: str) -> int:
        return 16  # weight, gradient and AdamW's two moments

    def attach(self, model: PreTrainedModel, job: RecoverJob) -> PreTrainedModel:
        return model.float().requires_grad_(True)

    def detach(self, model: PreTrainedModel) -> PreTrainedModel:
        return model
