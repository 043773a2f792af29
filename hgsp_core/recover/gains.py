"""Gains: one factor for each input of the writers, trained against the dense model and folded into the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hgsp_core.recover.contract import RecoverJob
from hgsp_core.recover.trained import Adapted
from hgsp_core.recover.training_params import GainsParams
from hgsp_core.runtime.source import checkpoint_layout

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Gains(Adapted[GainsParams]):
    """Trains one gain for each MLP channel and head dimension, and multiplies it into the weights.

    Formula: `W diag(l) x` for each writer (o_proj, down_proj), with l starting at 1; `W ← W diag(l)` at the end.
    Source: IA³ (Liu et al. 2022, arXiv 2205.05638) on the writers' inputs, by peft, with the loss of distillation.
    Cost: a few dozen steps on the calibration windows, with gradients of activations only. Memory for the pruned model
        and, with `distill`, for the dense one.
    When: `quality: best`, after `least-squares`. Each block is fitted by itself, and its error is noise for all later blocks. Gains
        balance the blocks against each other.
    Notes: The checkpoint keeps its tensors and sizes.
    """

    def adapted(self, model: PreTrainedModel, job: RecoverJob) -> PeftModel:
        from peft import IA3Config, get_peft_model

        architecture = job.architecture or checkpoint_layout(job.checkpoint).architecture
        writers = [s.module for axis in architecture.axes for s in axis.slices if s.dim == 1]
        config = IA3Config(task_type="CAUSAL_LM", target_modules=writers, feedforward_modules=writers)
        return get_peft_model(model, config)
