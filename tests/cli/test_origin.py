"""`hgsp prune` and `hgsp baseline`: every flag of the research scripts ends in the recipe, in a check, or in an error."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hgsp_core.cli import baseline, origin, prune
from hgsp_core.runtime.recipe import parse_recipe
from tests.helpers.command import MODEL, at

BASE = ("--base_model", str(MODEL))


@pytest.fixture
def recipe_of(said):
    """The recipe that a command prints, as a mapping, after `hgsp recipe validate`'s own check."""

    def recipe(*arguments):
        code, out, err = said(*arguments, "--print-recipe")
        assert code == 0, err
        parse_recipe(out, "printed")
        return yaml.safe_load(out)

    return recipe


# --- hgsp prune: what each flag sets

PRUNE = {
    "--base_model other/model": {"model.path": "other/model"},
    "--device cpu": {"device": "cpu"},
    "--head_dim 16": {"model.path": str(MODEL)},
    "--gqa_ratio 4": {"model.path": str(MODEL)},
    "--pruning_ratio 0.3": {"allocate.with.ratio": 0.3},
    "--pruning_strategy proportional": {"allocate.use": "layerwise", "allocate.with.strategy": "proportional"},
    "--pruning_strategy inverse": {"allocate.use": "layerwise", "allocate.with.strategy": "inverse"},
    "--pruning_strategy uniform": {"allocate.use": "uniform"},
    "--pruning_strategy uniform --freeze_first_n_layers 1": {
        "allocate.use": "layerwise",
        "allocate.with.strategy": "uniform",
    },
    "--pruning_strategy global": {"allocate.use": "hgsp", "allocate.with.temperature": 1.0},
    "--pruning_distribution 3:7": {"allocate.with.limits.pruning_distribution": "3:7"},
    "--no-prune_mlp": {"allocate.with.limits.pruning_distribution": "10:0"},
    "--prune_mlp --pruning_distribution 1:1": {"allocate.with.limits.pruning_distribution": "1:1"},
    "--iterative_steps 4": {"iterative_steps": 4},
    "--temperature 2": {"allocate.with.temperature": 2.0},
    "--tau inf": {"allocate.with.tau": math.inf},
    "--tau 0": {"allocate.with.tau": 0.0},
    "--epsilon 0.3": {"allocate.with.epsilon": 0.3},
    "--global_pruning": {"allocate.use": "hgsp", "allocate.with.temperature": 0.0, "allocate.with.epsilon": 0.0},
    "--global_pruning --epsilon 0.1": {"allocate.with.temperature": 0.0, "allocate.with.epsilon": 0.1},
    "--importance_weight 2": {"allocate.with.strategy": "inverse", "allocate.with.importance_weight": 2.0},
    "--layer_min_pruning_rate 0.1": {"allocate.with.limits.layer_min_rate": 0.1},
    "--layer_max_pruning_rate 0.5": {"allocate.with.limits.layer_max_rate": 0.5},
    "--freeze_first_n_layers 2": {"allocate.with.limits.freeze_first": 2},
    "--freeze_last_n_layers 1": {"allocate.with.limits.freeze_last": 1},
    "--layer_start 1": {"allocate.use": "hgsp", "allocate.with.limits.layer_start": 1},
    "--layer_end 5": {"allocate.with.limits.layer_end": 5},
    "--layer_end 5 --pruning_strategy uniform": {
        "allocate.with.attention.layer_end": 5,
        "allocate.with.mlp.layer_end": 5,
    },
    "--block_attention_layer_start 1": {"allocate.use": "uniform", "allocate.with.attention.layer_start": 1},
    "--block_attention_layer_end 4": {"allocate.with.attention.layer_end": 4},
    "--block_mlp_layer_start 2": {"allocate.with.mlp.layer_start": 2},
    "--block_mlp_layer_end 5": {"allocate.with.mlp.layer_end": 5},
    "--importance_method taylor_2nd": {"score.use": "taylor_2nd"},
    "--head_importance_samples 10": {"calibrate.samples": 10},
    "--taylor_seq_len 64": {"calibrate.seq_len": 64},
    "--gradient_batch_size 2": {"calibrate.batch_size": 2},
    "--gradient_batch_size 2 --importance_method taylor_2nd": {"score.with.batch": 2},
    "--use_gradient_checkpointing": {"memory": "device"},
    "--enable_grad_norm": {"normalize.0.use": "log"},
    "--enable_grad_norm --norm_method zscore": {"normalize.0.use": "zscore"},
    "--layer_importance_method similarity": {"prior.use": "similarity"},
    "--layer_importance_samples 7": {"prior.use": "removal", "prior.with.samples": 7},
    "--layer_importance_config FILE": {"prior.use": "file"},
    "--dataset pydoc": {"calibrate.dataset": "pydoc", "evaluate.0.with.datasets.0": "pydoc"},
    "--dataset pydoc,a.txt": {
        "calibrate.dataset": [{"use": "pydoc"}, {"use": "a.txt"}],
        "evaluate.0.with.datasets": ["pydoc", "a.txt"],
    },
    "--nsamples 9": {"calibrate.samples": 9},
    "--calibration_samples 9": {"calibrate.samples": 9},
    "--num_samples 9": {"calibrate.samples": 9},
    "--max_samples 8": {"calibrate.samples": 8},
    "--max_samples 8 --nsamples 7": {"calibrate.samples": 7},
    "--seq_len 32": {"calibrate.seq_len": 32},
    "--stride 16": {"calibrate.stride": 16},
    "--finetune": {"recover.use": "lora", "recover.with.dataset": "yahma/alpaca-cleaned"},
    "--finetune --finetune_method full": {"recover.use": "full"},
    "--finetune --finetune_data_path d.json": {"recover.with.dataset": "d.json"},
    "--finetune --finetune_epochs 3": {"recover.with.epochs": 3.0},
    "--finetune --finetune_lr 1e-4": {"recover.with.learning_rate": 1e-4},
    "--finetune --finetune_samples 99": {"recover.with.samples": 99},
    "--finetune --finetune_batch_size 64": {"recover.with.batch_size": 64},
    "--finetune --finetune_micro_batch_size 2": {"recover.with.micro_batch_size": 2},
    "--finetune --lora_r 4": {"recover.with.r": 4},
    "--finetune --lora_alpha 8": {"recover.with.alpha": 8.0},
    "--eval_tasks boolq,piqa": {"evaluate.1.use": "lm_eval", "evaluate.1.with.tasks": ["boolq", "piqa"]},
    "--tasks piqa": {"evaluate.1.with.tasks": ["piqa"]},
    "--output_name here": {"output": "results/here"},
    "--output there/x": {"output": "there/x"},
}


@pytest.mark.parametrize(("flags", "keys"), PRUNE.items(), ids=list(PRUNE))
def test_a_flag_of_prune_sets_its_recipe_keys(flags, keys, recipe_of, tmp_path):
    (tmp_path / "FILE").write_text("{}")
    base = () if "--base_model" in flags else BASE
    recipe = recipe_of("prune", *base, *flags.split())
    assert {key: at(recipe, key) for key in keys} == keys


def test_skip_evaluation_leaves_out_every_measurement(recipe_of):
    assert "evaluate" in recipe_of("prune", *BASE)
    assert "evaluate" not in recipe_of("prune", *BASE, "--skip_evaluation")


def test_every_flag_of_prune_is_in_the_table_above():
    flags = {flag.name for panel in prune.PANELS for flag in panel.flags}
    assert flags == {
        word for flags in PRUNE for word in flags.split() if word in flags and word.startswith("--")
    }.union({"--skip_evaluation"}) - {"--no-prune_mlp"}


def test_without_flags_the_recipe_is_that_of_the_script(recipe_of):
    assert recipe_of("prune", *BASE) == {
        "version": 1,
        "model": {"path": str(MODEL)},
        "calibrate": {"dataset": "wikitext2", "samples": 128, "seq_len": 128, "batch_size": 4},
        "score": {"use": "taylor"},
        "prior": {"use": "removal", "with": {"samples": 50}},
        "allocate": {"use": "hgsp", "with": {"ratio": 0.2, "temperature": 1.0, "tau": "auto", "epsilon": 0.15}},
        "reconstruct": {"use": "none"},
        "evaluate": [{"use": "perplexity", "with": {"datasets": ["wikitext2"]}}],
        "output": "results/pydoc-llama-global-20",
    }


def test_set_reaches_what_has_no_flag(recipe_of):
    recipe = recipe_of("prune", *BASE, "--set", "reconstruct.use=least-squares", "--set", "allocate.with.of=layers")
    assert recipe["reconstruct"] == {"use": "least-squares"}
    assert recipe["allocate"]["with"]["of"] == "layers"


OLD = {
    "--importance_samples 7": ("--layer_importance_samples", "prior.with.samples", 7),
    "--num_examples 10": ("--head_importance_samples", "calibrate.samples", 10),
    "--importance_method activation": ("--layer_importance_method", "prior.use", "activation"),
    "--importance_config FILE": ("--layer_importance_config", "prior.use", "file"),
    "--max_seq_len 64": ("--taylor_seq_len", "calibrate.seq_len", 64),
    "--alpha 2": ("--importance_weight", "allocate.with.importance_weight", 2.0),
    "--min_pruning_rate 0.1": ("--layer_min_pruning_rate", "allocate.with.limits.layer_min_rate", 0.1),
    "--max_pruning_rate=0.5": ("--layer_max_pruning_rate", "allocate.with.limits.layer_max_rate", 0.5),
    "--save_ckpt_log_name old": ("--output_name", "output", "results/old"),
}


@pytest.mark.parametrize(("flags", "becomes"), OLD.items(), ids=list(OLD))
def test_an_old_flag_works_and_warns_once_with_the_new_name_and_its_end(flags, becomes, said, tmp_path):
    new, key, value = becomes
    (tmp_path / "FILE").write_text("{}")
    code, out, err = said("prune", *BASE, *flags.split(), "--print-recipe")
    assert code == 0
    assert at(yaml.safe_load(out), key) == value
    assert err.count("Warning: ") == 1
    assert f"is now {new}" in err
    assert "removed in hgsp-core 1.0" in err


# --- contradictions and faults

FAULTS = {
    "--pruning_ratoi 0.3": ["No such option", "--pruning_ratio"],
    "--pruning_ratio 1.5": ["--pruning_ratio (allocate.with.ratio)", "less than 1", "1.5"],
    "--pruning_ratio 0": ["--pruning_ratio (allocate.with.ratio)", "greater than 0"],
    "--pruning_ratio many": ["--pruning_ratio", "valid number"],
    "--pruning_distribution five": ["--pruning_distribution", "attention:mlp"],
    "--pruning_distribution 0:0": ["--pruning_distribution", "one share above 0"],
    "--pruning_distribution 5:5 --no-prune_mlp": ["--no-prune_mlp", "--pruning_distribution 5:5", "contradict"],
    "--pruning_distribution 10:0 --prune_mlp": ["--prune_mlp", "--pruning_distribution 10:0", "contradict"],
    "--head_dim 12": ["--head_dim 12", "has 16", "config.json"],
    "--gqa_ratio 2": ["--gqa_ratio 2", "has 4"],
    "--alpha 2 --importance_weight 3": ["--alpha 2 and --importance_weight 3 contradict"],
    "--nsamples 3 --num_samples 4": ["--nsamples 3 and --num_samples 4 contradict"],
    "--num_examples 3 --nsamples 4": ["--nsamples 4 and --head_importance_samples 3 contradict"],
    "--seq_len 32 --taylor_seq_len 64": ["--seq_len 32 and --taylor_seq_len 64 contradict"],
    "--layer_start 1 --block_mlp_layer_start 2": ["--block_mlp_layer_start 2 and --layer_start 1 contradict"],
    "--pruning_strategy inverse --temperature 2": ["inverse does not accept --temperature", "--temperature: global"],
    "--importance_weight 2 --tau 1": ["accepts --tau, --importance_weight together", "--tau: global"],
    "--pruning_strategy invers": ["there is no 'invers'", "Did you mean 'inverse'?"],
    "--tau low": ["--tau low", "auto, inf or a number"],
    "--tau -1": ["--tau -1", "a number of 0 or above"],
    "--importance_method tayler": ["There is no scorer 'tayler'", "Did you mean 'taylor'?"],
    "--layer_importance_method remove": ["There is no prior 'remove'", "Did you mean 'removal'?"],
    "--norm_method log": ["--norm_method does nothing without --enable_grad_norm"],
    "--enable_grad_norm --norm_method lgo": ["There is no normalizer 'lgo'"],
    "--layer_importance_config none.json": ["--layer_importance_config: there is no file 'none.json'"],
    "--finetune_lr 1e-4": ["--finetune_lr does nothing without --finetune"],
    "--finetune --finetune_method full --lora_r 4": ["--lora_r", "--finetune_method full", "no adapters"],
    "--finetune --finetune_method loar": ["There is no recoverer 'loar'", "Did you mean 'lora'?"],
    "--skip_evaluation --tasks piqa": ["--skip_evaluation and --eval_tasks cannot be combined"],
    "--output a --output_name b": ["--output_name and --output cannot be combined"],
    "--max_samples 0": ["--max_samples (calibrate.samples)", "greater than or equal to 1"],
    "--iterative_steps 0": ["--iterative_steps (iterative_steps)", "greater than or equal to 1"],
    "--device tpu": ["--device (device)", "auto|cpu|cuda"],
    "--set allocate.with.ratoi=0.3": ["allocate.with.ratoi: unknown key", "Did you mean 'ratio'?"],
}


@pytest.mark.parametrize(("flags", "fragments"), FAULTS.items(), ids=list(FAULTS))
def test_a_fault_of_flags_is_one_message_and_nothing_is_written(flags, fragments, refused):
    message = refused("prune", *BASE, *flags.split())
    assert all(fragment in message for fragment in fragments), message


def test_the_model_must_be_named(refused):
    assert "--base_model is required, for example: hgsp prune --base_model" in refused("prune")


def test_a_size_is_checked_only_against_a_model_that_is_there(refused):
    assert "no model directory 'nowhere'" in refused(
        "prune", "--base_model", "./nowhere", "--head_dim", 16, "--print-recipe"
    )


def test_a_config_that_does_not_say_its_heads_is_a_readable_error(refused, tmp_path):
    model = tmp_path.parent / f"{tmp_path.name}-empty"
    model.mkdir()
    (model / "config.json").write_text("{}")
    assert "'num_attention_heads' is missing" in refused(
        "prune", "--base_model", model, "--head_dim", 8, "--print-recipe"
    )


def test_an_mha_model_has_one_query_head_a_kv_head_and_its_head_size_follows(said, refused, tmp_path):
    model = tmp_path.parent / f"{tmp_path.name}-mha"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"hidden_size": 64, "num_attention_heads": 8}))
    arguments = ("prune", "--base_model", model, "--print-recipe", "--head_dim", 8, "--gqa_ratio")
    assert said(*arguments, 1)[0] == 0
    assert "has 1" in refused(*arguments, 2)


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        ("--layer_importance_method activation --layer_importance_samples 5", "measured on the entire calibration set"),
        ("--nsamples 10 --layer_importance_samples 50", "the calibration set has only 10 windows; all are used"),
        ("--temperature 0 --layer_importance_method removal", "no layer importance is measured at temperature 0"),
        (
            "--pruning_strategy uniform --layer_importance_samples 5",
            "no layer importance is measured with the same rate",
        ),
    ],
)
def test_a_flag_that_changes_nothing_here_says_so(flags, note, said):
    code, _, err = said("prune", *BASE, *flags.split(), "--print-recipe")
    assert code == 0
    assert err.startswith("Note: --layer_importance_")
    assert note in err


# --- hgsp baseline

BASELINES = {
    "wanda": {"score": {"use": "wanda"}, "allocate": {"use": "uniform", "with": {"ratio": 0.2}}},
    "magnitude": {"score": {"use": "magnitude"}, "allocate": {"use": "uniform", "with": {"ratio": 0.2}}},
    "slimgpt": {
        "allocate": {"use": "slimgpt", "with": {"ratio": 0.2}},
        "reconstruct": {"use": "slimgpt"},
        "calibrate": {"dataset": "wikitext2", "samples": 64, "seq_len": 512, "batch_size": 1},
    },
    "shortgpt": {
        "allocate": {"use": "depth", "with": {"ratio": 0.2}},
        "prior": {"use": "similarity"},
        "calibrate": {"dataset": "wikitext2", "samples": 128, "seq_len": 512, "stride": 256},
    },
}


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_its_recipe(name, recipe_of):
    recipe = recipe_of("baseline", name, *BASE)
    assert {key: recipe[key] for key in BASELINES[name]} == BASELINES[name]
    assert recipe["output"] == f"results/pydoc-llama-{name}-20"


@pytest.mark.parametrize("name", BASELINES)
def test_the_shared_flags_mean_the_same_in_a_baseline(name, recipe_of):
    shared = {flag.name for panel in (origin.MODEL, *baseline.COMMON, baseline.SIZE) for flag in panel.flags}
    left_out = {"--base_model other/model", "--finetune", "--finetune --finetune_method full", "--output_name here"}
    left_out |= {
        "--calibration_samples 9",
        "--num_samples 9",
        "--nsamples 9",
        "--max_samples 8",
        "--tasks piqa",
        "--dataset pydoc",
    }
    cases = [
        flags for flags in PRUNE if {w for w in flags.split() if w.startswith("--")} <= shared and flags not in left_out
    ]
    given = {word: None for flags in cases for word in flags.split("--") if word.strip()}
    recipe = recipe_of("baseline", name, *BASE, *[part for word in given for part in f"--{word}".split()])
    for flags in cases:
        assert {key: at(recipe, key) for key in PRUNE[flags]} == PRUNE[flags]


@pytest.mark.parametrize("name", ["wanda", "magnitude"])
def test_a_uniform_baseline_takes_a_range_and_shares(name, recipe_of):
    flags = ["--layer_start", "1", "--layer_end", "5", "--pruning_distribution", "1:3"]
    within = {"layer_start": 1, "layer_end": 5}
    assert recipe_of("baseline", name, *BASE, *flags)["allocate"]["with"] == {
        "ratio": 0.2,
        "attention": within,
        "mlp": within,
        "limits": {"pruning_distribution": "1:3"},
    }


def test_shortgpt_takes_a_number_of_layers_instead_of_a_ratio(recipe_of, refused):
    recipe = recipe_of("baseline", "shortgpt", *BASE, "--n_remove_layers", 2)
    assert recipe["allocate"]["with"] == {"n_remove_layers": 2}
    assert recipe["output"].endswith("shortgpt-2-layers")
    message = refused("baseline", "shortgpt", *BASE, "--n_remove_layers", 2, "--pruning_ratio", 0.2)
    assert "--n_remove_layers and --pruning_ratio cannot be combined" in message


def test_a_flag_of_another_command_is_refused(refused):
    assert "No such option" in refused("baseline", "wanda", *BASE, "--temperature", 1)
    assert "No such option" in refused("baseline", "slimgpt", *BASE, "--alpha", 1)


# --- the real thing

SMALL = ("--dataset", "pydoc", "--nsamples", 4, "--seq_len", 16)


def test_prune_runs_the_recipe_that_it_prints(said, tmp_path):
    flags = ("prune", *BASE, *SMALL, "--pruning_ratio", 0.25, "--skip_evaluation", "--quiet")
    (tmp_path / "recipe.yaml").write_text(said(*flags, "--print-recipe")[1])
    code, out, err = said(*flags, "--output", "direct", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert 0.24 < 1 - report["after"]["parameters"] / report["before"]["parameters"] <= 0.25
    assert (tmp_path / "direct" / "model" / "model.safetensors").is_file()
    code, _, err = said("run", "recipe.yaml", "--quiet", "--output", "by_recipe", "--set", "export=[]")
    assert code == 0, err
    assert (tmp_path / "direct" / "plan.json").read_text() == (tmp_path / "by_recipe" / "plan.json").read_text()


def test_shortgpt_removes_whole_layers_measured_on_overlapping_windows(said, tmp_path):
    flags = (
        "--stride",
        8,
        "--n_remove_layers",
        2,
        "--skip_evaluation",
        "--output",
        "x",
        "--set",
        "export=[]",
        "--quiet",
    )
    code, _, err = said("baseline", "shortgpt", *BASE, *SMALL, *flags)
    assert code == 0, err
    plan = json.loads((tmp_path / "x" / "plan.json").read_text())
    assert sum(not layer["attention"]["kept"] and not layer["mlp"]["kept"] for layer in plan["layers"]) == 2
    assert json.loads((tmp_path / "x" / "report.json").read_text())["recipe"]["calibrate"]["stride"] == 8


def test_calibration_windows_begin_a_stride_apart():
    from hgsp_core.checkpoint.load import load_tokenizer
    from hgsp_core.data.run import draw
    from hgsp_core.runtime.recipe import CalibratePart

    text, tokenizer = Path(__file__).read_text(), load_tokenizer(MODEL)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    count = (len(ids) - 32) // 8 + 1
    tokens = draw(text, tokenizer, CalibratePart(seq_len=32, stride=8), "x", count)
    assert [ids[8 * i : 8 * i + 32] for i in range(count)] == tokens.tolist()


@pytest.mark.parametrize("arguments", [("--help",), (*BASE, "--head_dim", "16", "--print-recipe")])
def test_neither_help_nor_print_recipe_imports_torch(arguments, tmp_path):
    code = "import sys; from hgsp_core.cli import app; app(standalone_mode=False); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "prune", *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_help_lists_every_flag_in_a_panel(said):
    code, out, _ = said("prune", "--help")
    assert code == 0
    for panel in prune.PANELS:
        assert panel.title[:40] in out
        assert all(flag.name[:25] in out for flag in panel.flags)
