"""Recovery inside a run and on a finished one: by one process or two, killed and resumed, with data that is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.checkpoint.shards import read_tensors
from hgsp_core.pipeline import run
from hgsp_core.recover.finetune import finetune
from hgsp_core.runtime.errors import OutputError
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import Use, parse_recipe
from hgsp_core.runtime.store import Store
from tests.helpers.command import MODEL, ROOT, hgsp

RECIPE = f"""
model: {{path: {MODEL}}}
calibrate: {{dataset: pydoc, samples: 32, seq_len: 32}}
score: {{use: magnitude}}
allocate: {{use: hgsp, with: {{ratio: 0.25, temperature: 0}}}}
reconstruct: {{use: none}}
recover: {{use: lora, with: {{dataset: pydoc, samples: 200, epochs: 1, batch_size: 8, micro_batch_size: 4, dropout: 0,
  learning_rate: 0.002, records: {{seq_len: 64}}, schedule: {{check_every: 4}}}}}}
output: out
"""
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def weights(directory):
    return dict(read_tensors(directory))


@pytest.fixture(scope="module")
def recovered(tmp_path_factory):
    """A run with recovery, its folder and its report."""
    folder = tmp_path_factory.mktemp("run")
    report = run(parse_recipe(RECIPE, "r", [f"output={folder / 'out'}"]), LogMonitor(), Store(folder / "store"))
    return folder, report


def test_a_short_training_lowers_the_held_out_perplexity_of_a_pruned_model(recovered):
    folder, report = recovered
    told = report["recovery"]
    before, after = (told["held_out_perplexity"][side] for side in ("before", "after"))
    assert after < 0.8 * before
    assert told["steps"] == told["steps_planned"] == 24
    assert told["held_out_rows"] == 10
    assert json.loads((folder / "out" / "report.json").read_text())["recovery"] == told
    assert report["recipe"]["recover"]["with"]["r"] == 8
    assert not list((folder / "store").glob("recovery/*")), "checkpoints of the training are left"


def test_a_finished_run_is_trained_further_and_left_as_it_was(recovered, tmp_path):
    folder, _ = recovered
    before = {path.name: path.read_bytes() for path in (folder / "out" / "model").iterdir()}
    settings = {
        "dataset": "pydoc",
        "samples": 40,
        "epochs": 1,
        "batch_size": 8,
        "distill": True,
        "records": {"seq_len": 32},
    }
    use = Use.model_validate({"use": "full", "with": settings})
    report = finetune(
        folder / "out", use, tmp_path / "ft", LogMonitor(), device="cpu", dense=MODEL, store=Store(tmp_path / "store")
    )
    assert before == {path.name: path.read_bytes() for path in (folder / "out" / "model").iterdir()}
    assert report["recovery"]["held_out_perplexity"]["after"] != report["recovery"]["held_out_perplexity"]["before"]
    assert json.loads((tmp_path / "ft" / "report.json").read_text()) == report
    assert sorted(path.name for path in (tmp_path / "ft").iterdir()) == ["model", "report.json", "run.log"]
    old, new = weights(folder / "out" / "model"), weights(tmp_path / "ft" / "model")
    assert {n: t.shape for n, t in old.items()} == {n: t.shape for n, t in new.items()}
    assert not list((tmp_path / "store").glob("recovery/*"))
    with pytest.raises(OutputError, match="exists"):
        finetune(folder / "out", use, tmp_path / "ft", LogMonitor(), dense=MODEL)


def test_finetuning_what_is_no_model_is_refused(recovered, tmp_path):
    folder, _ = recovered
    use = Use.model_validate({"use": "lora", "with": {"dataset": "pydoc", "samples": 4}})
    with pytest.raises(CheckpointError, match="no model directory"):
        finetune(tmp_path / "nothing", use, tmp_path / "ft", LogMonitor())
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        finetune(folder / "store", use, tmp_path / "ft", LogMonitor())
    assert not list(tmp_path.iterdir())


CHAT = {
    "messages": [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "<think>\nOne more.\n</think>\n\nTwo."},
        {"role": "user", "content": "2+1?"},
        {"role": "assistant", "content": "<think>\nTwo and one.\n</think>\n\nThree."},
    ]
}


@pytest.mark.parametrize("hidden", [False, True])
def test_a_model_is_trained_on_chats_and_turns_that_are_not_learned_are_told(hidden, tmp_path):
    template = (ROOT / "tests" / "recover" / "chat_templates" / "qwen3.jinja").read_text()
    if hidden:  # only the last answer is shown
        template = template.replace(
            "{%- for message in messages %}", "{%- for message in messages %}{%- if loop.index0 != 1 %}"
        )
        template = "{%- endif %}{%- endfor %}".join(template.rsplit("{%- endfor %}", 1))
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(CHAT) + "\n" for _ in range(12)))
    settings = ["--num_epochs", "4", "--batch_size", "4", "--learning_rate", "0.01", "--set", "records.packing=true"]
    done = hgsp(
        "finetune", "model", "--data_path", "chats.jsonl", "--output_dir", "out", "--json", *settings, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)["recovery"]
    assert told["held_out_perplexity"]["after"] < 0.5 * told["held_out_perplexity"]["before"]
    note = (
        "12 of 24 turns of the assistant are not learned: the chat template does not show them (record 1, message 2; "
    )
    assert (note in done.stderr) == hidden == ("notes" in told and told["notes"][0].startswith(note))
    from hgsp_core.checkpoint.load import load_tokenizer

    said = ["Two.<|im_end|>\n"] * (not hidden) + ["<think>\nTwo and one.\n</think>\n\nThree.<|im_end|>\n"]
    tokens = [len(load_tokenizer(tmp_path / "model")(text)["input_ids"]) for text in said]
    assert abs(told["learned_tokens"] - 11 * sum(tokens)) <= 22 * len(said)  # borders inside of tokens


def test_wrong_data_is_found_before_any_work_starts(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "bad.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": "c"}\n')
    (tmp_path / "chat.jsonl").write_text(json.dumps(CHAT))
    for dataset, message in {
        "none.jsonl": "There is no file 'none.jsonl'",
        "bad.jsonl": "record 2 of 'bad.jsonl' has no 'output'",
        "chat.jsonl": "the model's tokenizer has no chat template",
    }.items():
        done = hgsp("run", "recipe.yaml", "--set", f"recover.with.dataset={dataset}", cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()
        assert not (tmp_path.parent / f"{tmp_path.name}-store").exists()
        assert "Read model" not in done.stderr


#: trains a checkpoint as `hgsp finetune` does
FINETUNE = textwrap.dedent("""
    import json, sys
    from pathlib import Path
    from hgsp_core.recover.finetune import finetune
    from hgsp_core.runtime.monitor import LogMonitor
    from hgsp_core.runtime.recipe import Use, parse_recipe
    from hgsp_core.runtime.store import Store

    use = parse_recipe(Path("recipe.yaml").read_text(), "recipe.yaml").recover
    use = Use(use=use.use, **{"with": {**use.with_, "dropout": 0.1}})
    finetune(Path(sys.argv[1]), use, Path(sys.argv[2]), LogMonitor(), device="cpu", store=Store(Path("store")))
""")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "finetune"])
def test_a_training_that_is_killed_resumes_and_ends_the_same(command, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "finetune.py").write_text(FINETUNE)

    def start(output):
        ways = {
            "run": ["-m", "hgsp_core", "run", "recipe.yaml", "--cache", "store", "--output", output],
            "finetune": ["finetune.py", str(MODEL), output],
        }
        return subprocess.Popen(
            [sys.executable, *ways[command]], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        )

    process = start("out")
    while process.poll() is None and not list(tmp_path.glob("store/recovery/*/checkpoint-12/trainer_state.json")):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    again = start("out")
    assert again.communicate(timeout=600)
    assert again.returncode == 0
    assert "Training resumes from" in (tmp_path / "out" / "run.log").read_text()
    fresh = start("fresh")
    assert fresh.communicate(timeout=600)
    assert fresh.returncode == 0
    resumed, whole = (tmp_path / name / "model" / "model.safetensors" for name in ("out", "fresh"))
    assert resumed.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("store/recovery/*"))
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("distill", ["false", "true"])
def test_two_processes_train_like_one_and_one_of_them_writes(distill, tmp_path):
    """185 rows trained on: neither a whole number of batches nor of micro-batches, so the last ones are filled up."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for processes in (1, 2):
        launcher = [
            "-m",
            "torch.distributed.run",
            f"--nproc-per-node={processes}",
            "--master-port=29547",
            "-m",
            "hgsp_core",
        ]
        settings = ["--set", f"recover.with.distill={distill}", "--set", "recover.with.samples=195"]
        done = subprocess.run(
            [
                sys.executable,
                *launcher,
                "run",
                "recipe.yaml",
                "--cache",
                f"store{processes}",
                "--json",
                *settings,
                "--output",
                f"out{processes}",
            ],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads(done.stdout)["recovery"]["processes"] == processes
    one, two = (weights(tmp_path / f"out{n}" / "model") for n in (1, 2))
    told = [json.loads((tmp_path / f"out{n}" / "report.json").read_text())["recovery"] for n in (1, 2)]
    for side in ("before", "after"):
        assert told[0]["held_out_perplexity"][side] == pytest.approx(told[1]["held_out_perplexity"][side], rel=1e-4)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-4, rtol=0)
    assert not list(tmp_path.glob(".*.partial"))
