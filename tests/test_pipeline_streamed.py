"""Whole runs with streamed weights, under a memory limit, killed and resumed, and by two processes."""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from hgsp_core.pipeline import run
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import parse_recipe
from hgsp_core.runtime.store import Store
from tests.helpers.command import ROOT

MODEL = ROOT / "models" / "pydoc-llama"
TEXT = f"""
model: {{path: {MODEL}}}
calibrate: {{dataset: pydoc, samples: 16, seq_len: 32}}
reconstruct: {{use: least-squares}}
evaluate: [{{use: perplexity, with: {{datasets: [pydoc], max_windows: 16}}}}]
"""
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


def files(directory):
    """What must not differ between runs that mean the same; the card and the checksums tell of the recipe, which does."""
    model = [p for p in sorted((directory / "model").iterdir()) if p.name not in ("README.md", "hgsp.json")]
    return {p.name: p.read_bytes() for p in [directory / "plan.json", *model]}


def test_streamed_weights_give_what_resident_ones_give(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        reports = {}
        for weights in ("resident", "streamed"):
            settings = [f"model.weights={weights}", "memory=cpu", f"output={tmp_path / weights}"]
            reports[weights] = run(
                parse_recipe(TEXT, "r", settings), LogMonitor(), Store(tmp_path / f"store-{weights}")
            )
    finally:
        torch.set_num_threads(threads)
    assert files(tmp_path / "resident") == files(tmp_path / "streamed")
    for side in ("before", "after"):
        a, b = (reports[w][side]["perplexity"]["pydoc"] for w in reports)
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.slow
def test_a_checkpoint_several_times_larger_than_the_memory_limit_is_pruned(tmp_path):
    """A hard limit on the process's address space, under which loading the model fails."""
    script = tmp_path / "limited.py"
    script.write_text(
        textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        import psutil, torch
        from transformers import AutoModelForCausalLM
        from hgsp_core.checkpoint.load import load_model
        from hgsp_core.runtime.monitor import LogMonitor
        from hgsp_core.pipeline import run
        from hgsp_core.runtime.recipe import load_recipe
        from hgsp_core.runtime.store import Store

        folder = Path(sys.argv[1])
        load_model(sys.argv[2])  # everything that is imported late is, before the limit is set
        size = sum(f.stat().st_size for f in (folder / "model").glob("*.safetensors"))
        limit = psutil.Process().memory_info().vms + size // 3
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            load_model(folder / "model")
        except Exception as error:
            print("whole:", type(error).__name__)
        else:
            sys.exit("the limit does not limit")
        report = run(load_recipe(folder / "recipe.yaml"), LogMonitor(), Store(folder / "store"))
        print("size", size, "limit above the libraries", size // 3, report["after"])
        """)
    )
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=768, intermediate_size=1536, num_hidden_layers=48, num_attention_heads=12,
        num_key_value_heads=4, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model", max_shard_size="40MB")
    PreTrainedTokenizerFast.from_pretrained(MODEL).save_pretrained(tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(
        f"model: {{path: {tmp_path / 'model'}, weights: streamed}}\ncalibrate: {{dataset: pydoc, samples: 4, seq_len: 16}}\n"
        "evaluate: [{use: perplexity, with: {datasets: [pydoc], seq_len: 16, max_windows: 4}}]\n"
        f"output: {tmp_path / 'out'}\n"
    )
    done = subprocess.run(
        [sys.executable, script, tmp_path, MODEL], capture_output=True, text=True, env=ENVIRONMENT, timeout=900
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    kept = sum(f.stat().st_size for f in (tmp_path / "out" / "model").glob("*.safetensors"))
    assert kept == pytest.approx(4 * plan["parameters"]["after"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", ["Calibrate", "Load", "Sweep", "Evaluate original", "Repair", "Cut", "Evaluate pruned", "Export"]
)
def test_a_run_that_is_killed_resumes_and_ends_the_same(stage, tmp_path):
    (tmp_path / "recipe.yaml").write_text(TEXT + "output: out\n")
    command = [sys.executable, "-m", "hgsp_core", "run", "recipe.yaml", "--cache", "store"]

    def start():
        return subprocess.Popen(
            command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    process = start()
    log = tmp_path / ".out.partial" / "run.log"
    while process.poll() is None and not (log.exists() and f"{stage}: start" in log.read_text()):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out").exists()
    again = start()
    output, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors
    if stage in ("Evaluate original", "Repair", "Cut", "Evaluate pruned", "Export"):
        assert "Reused: calibration" in output
        assert "statistics OutputError" in output
    fresh = run(parse_recipe(TEXT, "r", [f"output={tmp_path / 'fresh'}"]), LogMonitor(), Store(tmp_path / "other"))
    assert fresh
    assert files(tmp_path / "out") == files(tmp_path / "fresh")
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".partial")]


def test_two_processes_score_like_one_and_one_of_them_writes(tmp_path):
    importance = {}
    for processes in (1, 2):
        (tmp_path / "recipe.yaml").write_text(TEXT + f"output: out{processes}\n")
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-port=29533"]
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "hgsp_core", "run", "recipe.yaml", "--cache", f"store{processes}", "--json"],
            cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        report = json.loads(done.stdout)  # one object: the other process printed nothing
        with (tmp_path / f"out{processes}" / "global_group_table.csv").open() as file:
            importance[processes] = np.array([float(row["importance"]) for row in csv.DictReader(file)])
        assert report["after"]["perplexity"]["pydoc"] > 1
    np.testing.assert_allclose(importance[1], importance[2], rtol=2e-6)
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".partial")]
