"""`hgsp finetune` and `hgsp eval`: every flag does something, and both work on the result of `hgsp prune`."""

import json

import pytest
import yaml

from hgsp_core.cli import eval as eval_command
from hgsp_core.cli import finetune as finetune_command
from tests.helpers.command import MODEL, at

FINETUNE = {
    "--finetune_method full": {"use": "full"},
    "--data_path d.json": {"with.dataset": "d.json"},
    "--num_epochs 3": {"with.epochs": 3.0},
    "--learning_rate 1e-4": {"with.learning_rate": 1e-4},
    "--batch_size 64": {"with.batch_size": 64},
    "--micro_batch_size 2": {"with.micro_batch_size": 2},
    "--max_samples 99": {"with.samples": 99},
    "--num_samples 99": {"with.samples": 99},
    "--seq_len 64": {"with.records.seq_len": 64},
    "--lora_r 4": {"with.r": 4},
    "--lora_alpha 8": {"with.alpha": 8.0},
    "--use_gradient_checkpointing": {"with.schedule.gradient_checkpointing": True},
    "--set schedule.patience=7 --set dropout=0": {"with.schedule.patience": 7, "with.dropout": 0},
}
EVAL = {
    "--dataset ptb,c4": {"0.use": "perplexity", "0.with.datasets": ["ptb", "c4"]},
    "--seq_len 64": {"0.with.seq_len": 64},
    "--stride 32": {"0.with.stride": 32},
    "--tasks boolq,piqa": {"0.use": "perplexity", "1.use": "lm_eval", "1.with.tasks": ["boolq", "piqa"]},
    "--eval_tasks boolq --dataset none": {"0.use": "lm_eval"},
    "--max_samples 3 --tasks boolq": {"0.with.max_windows": 3, "1.with.limit": 3},
    "--num_samples 3": {"0.with.max_windows": 3},
    "--batch_size 2 --tasks boolq": {"0.with.batch_size": 2, "1.with.batch_size": 2},
    "--efficiency": {"1.use": "efficiency"},
    "--set evaluate.0.with.seq_len=256": {"0.with.seq_len": 256},
}
ELSEWHERE = {"--pruned_model", "--output_dir", "--output", "--device", "--model_path", "--dtype"}


@pytest.mark.parametrize(
    ("command", "part", "flags", "keys"),
    [("finetune", "recover", *case) for case in FINETUNE.items()]
    + [("eval", "evaluate", *case) for case in EVAL.items()],
    ids=[f"finetune {flags}" for flags in FINETUNE] + [f"eval {flags}" for flags in EVAL],
)
def test_a_flag_sets_its_keys_in_the_part_that_is_printed(command, part, flags, keys, said):
    code, out, err = said(command, "somewhere", *flags.split(), "--print-recipe")
    assert code == 0, err
    printed = yaml.safe_load(out)
    assert list(printed) == [part]
    assert {key: at(printed[part], key) for key in keys} == keys


@pytest.mark.parametrize(("module", "table"), [(finetune_command, FINETUNE), (eval_command, EVAL)])
def test_every_flag_is_in_a_table_above_or_tested_below(module, table):
    tested = {word for flags in table for word in flags.split() if word.startswith("--")} | ELSEWHERE
    assert {flag.name for flag in module.PANEL.flags} <= tested


def test_a_printed_part_is_read_again_and_flags_change_it(said, tmp_path):
    flags = ("--lora_r", 4, "--data_path", "d.json", "--set", "schedule.patience=2")
    (tmp_path / "r.yaml").write_text(said("finetune", "m", *flags, "--print-recipe")[1])
    _code, out, _ = said("finetune", "m", "--recipe", "r.yaml", "--num_epochs", 5, "--print-recipe")
    with_ = {"r": 4, "dataset": "d.json", "schedule": {"patience": 2}, "epochs": 5.0}
    assert yaml.safe_load(out) == {"recover": {"use": "lora", "with": with_}}


def test_the_directory_may_be_named_as_the_script_did(refused):
    for command, flag, *flags in (("finetune", "--pruned_model"), ("eval", "--model_path", "--dataset", "pydoc")):
        assert "no model directory" in refused(command, flag, "./nowhere", *flags)
        assert f"a and {flag} b contradict each other" in refused(command, "a", flag, "b")


FAULTS = {
    "finetune": ["CHECKPOINT is required"],
    "finetune m --num_epochs 0": ["--num_epochs (recover.with.epochs)", "greater than 0"],
    "finetune m --finetune_method loar": ["no recoverer 'loar'", "Did you mean 'lora'?"],
    "finetune m --finetune_method full --lora_r 8": ["--lora_r", "full training has no adapters"],
    "finetune m --set patience=0": ["recover.with.patience: unknown key"],
    "finetune m --recipe none.yaml": ["none.yaml: no such recipe"],
    "finetune m --max_samples 3 --num_samples 4": ["--max_samples 3 and --num_samples 4 contradict"],
    "finetune m --dense d": ["--dense does nothing without --set distill=true"],
    "finetune m --output a --output_dir b": ["--output_dir b and --output a contradict"],
    "finetune m --learing_rate 1": ["No such option", "--learning_rate"],
    "eval": ["MODEL is required"],
    "eval m --dataset none": ["nothing to measure"],
    "eval m --dataset none --efficiency --stride 3": ["--stride would do nothing"],
    "eval m --dataset none --efficiency --batch_size 3": ["--batch_size would do nothing"],
    "eval m --stride 200": ["more than seq_len 128"],
    "eval m --dtype int4": ["--dtype (model.dtype)", "'bfloat16'"],
    "eval m --set model.path=other": ["only keys of 'evaluate'"],
    "eval m --recipe none.yaml": ["none.yaml: no such recipe"],
    "eval ./nowhere --dataset pydoc": ["no model directory"],
}


@pytest.mark.parametrize(("command", "fragments"), FAULTS.items(), ids=list(FAULTS))
def test_a_fault_of_flags_is_one_message_and_nothing_is_written(command, fragments, refused):
    message = refused(*command.split())
    assert all(fragment in message for fragment in fragments), message


def test_a_recipe_without_the_part_is_refused_as_are_flags_beside_it(refused, said, tmp_path):
    recipe = tmp_path.parent / f"{tmp_path.name}.yaml"
    recipe.write_text("version: 1\nevaluate: [{use: efficiency}]\n")
    assert "recover: the file has no part 'recover:'" in refused("finetune", "m", "--recipe", recipe)
    recipe.write_text("recover: lora\nevaluate: [{use: efficiency}]\n")
    assert "recover: expected the form {use: lora" in refused("finetune", "m", "--recipe", recipe)
    assert "--tasks and --recipe cannot be combined" in refused("eval", "m", "--recipe", recipe, "--tasks", "piqa")
    _code, out, _ = said("eval", "m", "--recipe", recipe, "--print-recipe", "--set", "evaluate.0.with.rounds=4")
    assert yaml.safe_load(out) == {"evaluate": [{"use": "efficiency", "with": {"rounds": 4}}]}


@pytest.mark.slow
def test_prune_then_finetune_then_eval(said, tmp_path):
    """The way of the scripts, on the small trained model: each command takes the result of the one before."""
    measured = ("--dataset", "pydoc", "--seq_len", 64)
    flags = ("--nsamples", 8, "--importance_method", "magnitude", "--temperature", 0, "--pruning_ratio", 0.3)
    code, _, err = said(
        "prune", "--base_model", MODEL, *measured, *flags, "--output", "cut", "--skip_evaluation", "--quiet"
    )
    assert code == 0, err
    training = (
        "--data_path",
        "pydoc",
        "--max_samples",
        200,
        "--seq_len",
        64,
        "--num_epochs",
        1,
        "--learning_rate",
        0.002,
    )
    sizes = ("--batch_size", 16, "--micro_batch_size", 8, "--device", "cpu", "--output_dir", "trained", "--quiet")
    code, out, err = said("finetune", "cut", *training, *sizes)
    assert code == 0, err
    assert "Perplexity on held-out data: " in out
    assert "Result: trained" in out
    assert json.loads((tmp_path / "trained" / "report.json").read_text())["recover"]["with"]["epochs"] == 1.0

    code, out, err = said(
        "eval", "trained", "--dense", "cut", *measured, "--max_samples", 20, "-o", "found.json", "--quiet"
    )
    assert code == 0, err
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ratio"]["perplexity"]["pydoc"] < 0.9, "the training did not help"
    assert "perplexity, pydoc" in out
    assert "ratio" in out
    assert "Result: found.json" in out


def test_eval_measures_what_the_flags_say_and_never_overwrites(said, tmp_path):
    flags = ("eval", MODEL, "--dataset", "pydoc", "--seq_len", 64, "--max_samples", 5, "--stride", 16, "--quiet")
    code, out, err = said(*flags, "-o", "found.json")
    assert code == 0, err
    found = json.loads((tmp_path / "found.json").read_text())
    protocol = found["after"]["perplexity_protocol"]["pydoc"]
    assert (protocol["seq_len"], protocol["stride"], protocol["windows"]) == (64, 16, 5)
    assert f"{found['after']['perplexity']['pydoc']:.2f}" in out
    assert "Result: found.json" in out
    code, out, _ = said(*flags, "--json")
    assert json.loads(out)["after"] == found["after"]
    code, _, err = said(*flags, "-o", "found.json")
    assert code == 2
    assert "exists and is not overwritten" in err
