"""Recovery of an existing checkpoint (`hgsp finetune`), with the recoverers of `recover:` in a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hgsp_core.checkpoint.fingerprint import fingerprint
from hgsp_core.checkpoint.read import read_config, stored_dtype, weight_bytes
from hgsp_core.export.run import PROBE
from hgsp_core.files.json_files import write_json
from hgsp_core.recover.contract import Recoverer, RecoverJob
from hgsp_core.recover.run import call_recoverer, recovery_work
from hgsp_core.runtime.directory import run_directory
from hgsp_core.runtime.measure import placed
from hgsp_core.runtime.monitor import Monitor
from hgsp_core.runtime.recipe import Use, resolved_use
from hgsp_core.runtime.session import group, peak_memory, wait_for_all
from hgsp_core.runtime.source import architecture_of, model_directory
from hgsp_core.runtime.store import Store, default_root
from hgsp_core.runtime.versions import versions


def finetune(
    checkpoint: Path,
    use: Use,
    output: Path,
    monitor: Monitor,
    *,
    device: str = "auto",
    seed: int = 0,
    dense: Path | None = None,
    store: Store | None = None,
) -> dict[str, Any]:
    """Train a pruned (or any) model further and write `output/model`; returns the content of `output/report.json`.

    Args:
        checkpoint: a Hugging Face directory, or a run directory that holds one. It is not changed.
        use: the recoverer with its parameters, as a recipe has under `recover`; checked here.
        output: must not exist. Nothing of it is left where training fails.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dense: the model before the cut, which `distill` learns from.
        store: where checkpoints of the training lie, for a call that is killed and made again; None: the default store.

    Raises:
        HgspError: everything that a user can mend. All that can be known without the model is found first.
    """
    model = model_directory(checkpoint)
    use = resolved_use("recoverer", use)
    recoverer = use.build(Recoverer)
    architecture = architecture_of(model)
    if dense:
        read_config(dense)
    with group() as first, run_directory(output, first) as directory:
        work = recovery_work(store or Store(default_root()), use, seed, model)
        _, device = placed(stored_dtype(model), device)
        destination = directory / "model"
        with monitor.stage("Recover") as progress:
            job = RecoverJob(model, destination, None, seed, architecture, dense, device, work, progress)
            told = call_recoverer(recoverer, job, first)
        if first:
            with monitor.stage("Verify"):
                _verify(destination, device)
            report = {
                "checkpoint": str(checkpoint),
                "fingerprint": fingerprint(model),
                "dense": dense and str(dense),
                "recover": use.model_dump(mode="json"),
                "seed": seed,
                "device": device,
                "recovery": told,
                "bytes": weight_bytes(destination),
                "timings": dict(monitor.timings),
                "peak_memory_bytes": peak_memory(),
                "versions": versions(),
            }
            write_json(directory / "report.json", report)
        else:
            report = {"recovery": told}
        wait_for_all()
    if first:
        shutil.rmtree(work, ignore_errors=True)
    return report


def _verify(model: Path, device: str) -> None:
    """A fresh process without this package computes the same. Raises CheckpointError."""
    import torch

    from hgsp_core.checkpoint.load import load_model
    from hgsp_core.export.reload import verify_reload

    loaded, config = load_model(model, device=device)
    tokens = torch.arange(PROBE[0] * PROBE[1]).reshape(PROBE) % config["vocab_size"]
    with torch.no_grad():
        logits = loaded(tokens.to(device), use_cache=False).logits
    verify_reload(model, tokens, logits)
