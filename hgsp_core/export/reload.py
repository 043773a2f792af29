"""Proof that a checkpoint is what was in memory: a new process loads it and computes the same.

That process does without this package, as any user of transformers would. A model that does not fit in memory whole
is computed layer by layer instead, which takes this package.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.read import read_config
from hgsp_core.checkpoint.trust import code_fault
from hgsp_core.errors import HgspError, ResourceError
from hgsp_core.runtime.fresh import run_fresh

#: what any user of transformers would write; it must not import hgsp_core
_SCRIPT = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

directory, inputs, outputs, device, threads, model_type = sys.argv[1:]
torch.set_num_threads(int(threads))
model, info = AutoModelForCausalLM.from_pretrained(
    directory, dtype="auto", trust_remote_code=model_type == "hgsp", use_safetensors=True, output_loading_info=True
)
if info["missing_keys"]:
    sys.exit(f"no weights for {sorted(info['missing_keys'])}")
with torch.no_grad():
    logits = model.to(device).eval()(load_file(inputs)["ids"].to(device), use_cache=False).logits
save_file({"logits": logits.cpu().contiguous()}, outputs)
"""


def verify_reload(directory: Path | str, token_ids: torch.Tensor, reference_logits: torch.Tensor) -> float:
    """Reload a checkpoint in a new process and compare its logits with the reference.

    Args:
        directory: the checkpoint; of code in it, only this package's own modeling file is run.
        token_ids: [batch, tokens].
        reference_logits: [batch, tokens, vocabulary] of the model that was written, in the dtype that was written.
            The new process computes on their device, with as many threads as this one.

    Returns:
        The largest absolute difference: 0.0, for anything else is an error.

    Raises:
        CheckpointError: it does not load, weights are missing, the logits differ, or it brings other code.
    """
    config = read_config(directory)
    if fault := code_fault(Path(directory), config):
        raise CheckpointError.other_code(fault)
    return _verify(["-c", _SCRIPT], directory, token_ids, reference_logits, [config.get("model_type")])


def verify_streamed(directory: Path | str, token_ids: torch.Tensor, reference: torch.Tensor, family: str) -> float:
    """The same with one layer in memory at a time. `family`: the original's model_type.

    Returns and raises as `verify_reload`.
    """
    return _verify(["-m", "hgsp_core.export.reload"], directory, token_ids, reference, [reference.dtype, family])


def _verify(
    script: Sequence[str],
    directory: Path | str,
    token_ids: torch.Tensor,
    reference: torch.Tensor,
    more: Sequence[object],
) -> float:
    directory = Path(directory).resolve()
    with tempfile.TemporaryDirectory(prefix="hgsp-verify-") as work:
        inputs, outputs = Path(work, "inputs.safetensors"), Path(work, "outputs.safetensors")
        save_file({"ids": token_ids.cpu().contiguous()}, inputs)
        arguments = [directory, inputs, outputs, reference.device, torch.get_num_threads(), *more]
        # a cache of its own, so that the modeling file that runs is this directory's and no older one
        result = run_fresh(*script, *arguments, HF_HUB_OFFLINE="1", HF_MODULES_CACHE=str(Path(work, "modules")))
        if "No space left on device" in result.stderr:
            raise ResourceError.disk(f"temporary files of the check of '{directory}'")
        if result.returncode:
            raise CheckpointError.not_reloaded(directory, result.stderr)
        logits = load_file(outputs)["logits"]
    return compare(directory, logits, reference)


def compare(directory: Path, logits: torch.Tensor, reference_logits: torch.Tensor) -> float:
    """The largest absolute difference of what was reloaded from what was written.

    Raises:
        CheckpointError: it is not 0.
    """
    difference = (logits.cpu().float() - reference_logits.detach().cpu().float()).abs().max().item()
    if difference != 0.0:  # also true of NaN
        raise CheckpointError.differs(directory, difference)
    return difference


def main(arguments: Sequence[str]) -> None:
    """What runs in the other process for a model that is streamed."""
    from hgsp_core.engine.likelihood import logits
    from hgsp_core.engine.weights import Streamed
    from hgsp_core.runtime.source import checkpoint_layout

    directory, inputs, outputs, device, threads, dtype, family = arguments
    torch.set_num_threads(int(threads))
    number_type = getattr(torch, dtype.removeprefix("torch."))
    source = Streamed(directory, checkpoint_layout(Path(directory), family), number_type, device)
    result = logits(source, load_file(inputs)["ids"].numpy())
    save_file({"logits": result.cpu().contiguous()}, outputs)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except HgspError as error:
        sys.exit(str(error))
