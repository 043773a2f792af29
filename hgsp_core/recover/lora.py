"""LoRA: low-rank adapters, trained with peft and merged at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from hgsp_core.files.forms import Adapter
from hgsp_core.files.paths import expanded
from hgsp_core.files.text import read_object
from hgsp_core.model.architecture import Architecture
from hgsp_core.recover.contract import RecoverJob
from hgsp_core.recover.errors import RecoverError
from hgsp_core.recover.trained import Adapted
from hgsp_core.recover.training_params import LoRAParams
from hgsp_core.runtime.source import checkpoint_layout

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


class LoRA(Adapted[LoRAParams]):
    """Trains small adapters beside the pruned linears and merges them into the weights.

    Formula: `W x + (α/r)·B A x` during training, with A and B of rank `r`; `(α/r)·B A` is added to W at the end.
    Source: Hu et al. 2021 (arXiv 2106.09685), eq. 3, by peft. B starts at zero, so training starts at the pruned
        model.
    Cost: memory for the weights as stored (fp16 as fp32) and activations.
    When: the model fits in memory, but not four fp32 copies of it.
    Notes: The linears are those that units are cut from (q, k, v, o, gate, up, down), by the architecture's data.
        Experts, and MLPs of layers beside layers with experts, are not adapted.
        `adapter: DIR` continues from an adapter of this very model.
    """

    def __init__(self, params: LoRAParams):
        self.adapter = _adapter(params.adapter) if params.adapter else None
        super().__init__(params)

    def adapted(self, model: PreTrainedModel, job: RecoverJob) -> PeftModel:
        from peft import LoraConfig, PeftModel, get_peft_model

        if self.adapter:
            _check_adapter(self.adapter, model)
            try:
                return PeftModel.from_pretrained(model, self.adapter, is_trainable=True, use_safetensors=True)
            except (TypeError, ValueError, LookupError, AttributeError) as error:
                raise RecoverError.no_adapter(self.adapter, str(error).partition("\n")[0]) from error
        p = self.params
        linears = targets(job.architecture or checkpoint_layout(job.checkpoint).architecture)
        sizes = {"r": p.r, "lora_alpha": p.alpha, "lora_dropout": p.dropout}
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=linears, **sizes))


def targets(architecture: Architecture) -> list[str]:
    """The linears of a layer that units are rows or columns of, by their names in it.

    peft takes a linear whose name experts have in files (gate_proj) for all of these experts.
    """
    experts = {part.split(".")[-2] for parts in architecture.stored.values() for part in parts}
    slices = [s for axis in architecture.axes if not axis.router for s in axis.slices if not s.bare]
    return list(dict.fromkeys(s.module for s in slices if s.module.split(".")[-1] not in experts))


def _adapter(name: str) -> Path:
    """The adapter's directory. Raises RecoverError: not there, unreadable, or not a LoRA."""
    path = expanded(name)
    try:
        config = read_object(path / _CONFIG, Adapter)
        with safe_open(path / _WEIGHTS, framework="numpy"):
            pass
    except (OSError, ValueError, SafetensorError) as error:
        raise RecoverError.no_adapter(path, str(error)) from None
    if config["peft_type"] != "LORA":
        raise RecoverError.no_adapter(path, f"its peft_type is {config['peft_type']}")
    if config.get("megatron_config"):  # peft would import the module that megatron_core names
        raise RecoverError.no_adapter(path, "it was made with Megatron (megatron_config)")
    return path


def _check_adapter(path: Path, model: nn.Module) -> None:
    """Every matrix of the adapter belongs to a linear of the model and has its size. Raises RecoverError."""
    with safe_open(path / _WEIGHTS, framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
    linears = dict(model.named_modules())
    for name, shape in shapes.items():
        module, _, which = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        weight = getattr(linears.get(module), "weight", None)
        if weight is None:
            raise RecoverError.other_adapter(path, module, "is not in this one")
        there, here = (shape[1], weight.shape[1]) if which == "lora_A" else (shape[0], weight.shape[0])
        if there != here:
            side = "inputs" if which == "lora_A" else "outputs"
            raise RecoverError.other_adapter(path, module, f"had {there} {side} there and has {here} here")
