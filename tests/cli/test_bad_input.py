"""What a user can get wrong ends in one message that names the place and the fix, exit code 2, and nothing written."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from hgsp_core.cli import main
from tests.helpers.command import MODEL, ROOT, hgsp

RECIPE = {
    "model": {"path": str(MODEL)},
    "calibrate": {"dataset": "pydoc", "samples": 2, "seq_len": 16},
    "score": {"use": "magnitude"},
    "allocate": {"use": "uniform", "with": {"ratio": 0.2}},
    "output": "result",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory with a recipe that works; the store is beside it."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HGSP_CACHE", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # set by the command too; so it is put back afterwards
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    if "transformers" in sys.modules:  # imported by another test, before the command could set those
        sys.modules["transformers"].utils.logging.disable_progress_bar()
        sys.modules["transformers"].utils.logging.set_verbosity_error()
    return folder


@pytest.fixture
def refused(here, monkeypatch, capsys):
    """Run `hgsp` with these arguments; it must refuse. Returns its message."""

    def refuse(*arguments):
        before = snapshot(here)
        monkeypatch.setattr(sys, "argv", ["hgsp", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        check_refusal(stop.value.code, out, err)
        assert snapshot(here) == before, "a refused command has written something"
        return err

    return refuse


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def check_refusal(code, out, err):
    assert code == 2, err
    assert out == ""
    assert err.startswith("Error: ")
    assert f"\n{err}".count("\nError: ") == 1
    assert "Traceback" not in err
    assert 'File "' not in err


def changed(**parts):
    """The recipe with these parts instead of its own."""
    Path("recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **parts}))


def run_quietly(*arguments):
    return ("run", "recipe.yaml", "--quiet", *arguments)


# --- the recipe


@pytest.mark.parametrize(
    ("setting", "place", "fix"),
    [
        ("alocate.use=hgsp", "alocate: unknown key", "Did you mean 'allocate'?"),
        ("calibrate.sample=3", "calibrate.sample: unknown key", "Did you mean 'samples'?"),
        ("allocate.with.ratoi=0.3", "allocate.with.ratoi: unknown key", "Did you mean 'ratio'?"),
        ("score.use=tayler", "score.use: There is no scorer 'tayler'", "Did you mean 'taylor'?"),
        ("score.use=nobody/taylor", "score.use: There is no scorer 'nobody/taylor'", "hgsp plugins list"),
        ("calibrate.dataset=pydok", "calibrate.dataset: There is no dataset 'pydok'", "Did you mean 'pydoc'?"),
        ("evaluate=[{use: perplexity, with: {datasets: [pydok]}}]", "evaluate: perplexity: datasets", "mean 'pydoc'?"),
        ("allocate.with.ratio=1.2", "allocate.with.ratio", "less than 1"),
        ("calibrate.seq_len=0", "calibrate.seq_len", "greater than or equal to 2"),
        ("calibrate.samples=many", "calibrate.samples", "valid integer"),
        ("model.dtype=int4", "model.dtype", "'bfloat16'"),
        ("device=tpu", "device", "auto|cpu|cuda"),
        ("calibrate.with.colum=x", "calibrate.with.colum: unknown key", ""),
        ("calibrate.seed=4294967296", "calibrate.seed", "less than 4294967296"),
        ("recover={use: full, with: {epochs: .inf}}", "recover.with.epochs", "less than or equal to 10000"),
        ("output=~a_user_that_nobody_is/x", "output", "there is no user ~a_user_that_nobody_is"),
        ("model.path=~a_user_that_nobody_is/x", "'~a_user_that_nobody_is/x' cannot be resolved", "without ~"),
        (
            "evaluate=[{use: perplexity, with: {datasets: ['~a_user_that_nobody_is/x.txt']}}]",
            "cannot be resolved",
            "without ~",
        ),
    ],
    ids=lambda value: None,
)
def test_a_wrong_key_name_type_or_range(refused, setting, place, fix):
    message = refused(*run_quietly("--set", setting))
    assert place in message, message
    assert fix in message, message


def test_a_yaml_syntax_error_is_located(refused, here):
    (here / "recipe.yaml").write_text("model: {path: x}\noutput: [y\n")
    assert "recipe.yaml: line 3, column 1: not valid YAML" in refused(*run_quietly())


def test_a_recipe_that_is_no_mapping(refused, here):
    (here / "recipe.yaml").write_text("- model\n")
    assert "hgsp recipe init" in refused(*run_quietly())


def test_a_recipe_that_is_not_there(refused):
    assert "recipy.yaml: no such recipe. Did you mean 'recipe.yaml'?" in refused("run", "recipy.yaml")


def test_a_setting_that_is_none(refused):
    assert "key.key=value" in refused(*run_quietly("--set", "ratio"))


def test_missing_keys_are_all_named_at_once(refused, here):
    (here / "recipe.yaml").write_text("version: 1\n")
    message = refused(*run_quietly())
    assert "model: this key is required" in message
    assert "output: this key is required" in message


def test_thousands_of_faults_are_not_all_told(refused):
    message = refused(*run_quietly("--set", f"export={list(range(3000))}"))
    assert "export.0: " in message
    assert "export.20: " not in message
    assert "and 2,980 more." in message


# --- the model


@pytest.fixture
def model(tmp_path):
    """A copy of the trained model that a test may spoil."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    changed(model={"path": str(folder)})
    return folder


def spoil_config(model, **keys):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **keys}))


def spoil_tensors(model, change):
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def test_a_model_directory_that_is_not_there(refused, here):
    changed(model={"path": "./models/nowhere"})
    message = refused(*run_quietly())
    assert "no model directory 'models/nowhere'" in message


def test_a_model_without_config(refused, here, model):
    (model / "config.json").unlink()
    message = refused(*run_quietly())
    assert f"'{model}' has no config.json" in message


def test_a_model_whose_config_is_no_json(refused, here, model):
    (model / "config.json").write_text("{")
    message = refused(*run_quietly())
    assert "config.json' cannot be read" in message
    assert "again" in message


def test_a_model_without_weights(refused, here, model):
    (model / "model.safetensors").unlink()
    message = refused(*run_quietly())
    assert "has no model.safetensors" in message
    assert "Download the weights" in message


@pytest.mark.parametrize("size", [0, 100, 100_000], ids=["empty", "header cut", "tensors cut"])
def test_a_model_whose_weights_are_cut_short(refused, here, model, size):
    os.truncate(model / "model.safetensors", size)
    message = refused(*run_quietly())
    assert "model.safetensors' is damaged or incomplete" in message
    assert "again" in message


def test_a_model_with_a_missing_shard(refused, here, model):
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    names = load_file(model / "model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 + (name == 'model.norm.weight')}-of-00002.safetensors" for name in names}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "model-00002-of-00002.safetensors' is missing" in refused(*run_quietly())


def test_a_model_with_a_missing_tensor(refused, here, model):
    spoil_tensors(model, lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"))
    message = refused(*run_quietly())
    assert "no tensor 'model.layers.2.mlp.up_proj.weight'" in message


def test_a_model_with_a_tensor_that_its_architecture_does_not_know(refused, here, model):
    spoil_tensors(model, lambda tensors: tensors.update(extra=tensors["model.norm.weight"].clone()))
    message = refused(*run_quietly())
    assert "does not account for tensor(s) extra" in message
    assert "plugin" in message


def test_a_model_whose_config_and_weights_disagree(refused, here, model):
    spoil_config(model, num_key_value_heads=5)
    message = refused(*run_quietly())
    assert "num_key_value_heads" in message
    assert "config.json" in message


def test_a_model_of_an_unknown_type(refused, here, model):
    spoil_config(model, model_type="lama")
    message = refused(*run_quietly())
    assert "config.json: model_type" in message
    assert "Did you mean 'llama'?" in message


@pytest.mark.parametrize("model_type", ["granitemoe", "Llama", "llama4_text"])
def test_a_relative_of_a_known_family_is_not_taken_for_it(refused, here, model, model_type):
    """Only the exact model_type says what is computed."""
    spoil_config(model, model_type=model_type, logits_scaling=8.0)
    assert f"There is no architecture '{model_type}'" in refused(*run_quietly())


def test_a_model_with_code_of_its_own_is_not_taken_for_the_stock_one(refused, here, model):
    spoil_config(model, auto_map={"AutoModelForCausalLM": "modeling_mine.MineForCausalLM"})
    message = refused(*run_quietly())
    assert "auto_map: the model has custom code (modeling_mine.MineForCausalLM)" in message


def test_heads_that_contradict_the_weights(refused, here, model):
    spoil_config(model, num_attention_heads=12)
    message = refused(*run_quietly())
    assert (
        "'model.layers.0.self_attn.q_proj.weight' has the shape (256, 192), but config.json implies (192, 192)"
        in message
    )


def test_a_head_size_that_contradicts_the_weights(refused, here, model):
    spoil_config(model, head_dim=8)
    message = refused(*run_quietly("--set", "score.use=taylor"))
    assert "_proj.weight' has the shape" in message
    assert "but config.json implies" in message


def test_a_weight_without_columns(refused, here, model):
    name = "model.layers.1.self_attn.o_proj.weight"
    spoil_tensors(model, lambda tensors: tensors.update({name: tensors[name].flatten()}))
    assert f"Tensor '{name}' has the shape (49152,), but must be a matrix" in refused(*run_quietly())


def test_a_tokenizer_whose_longest_text_is_no_number(refused, here, model):
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": [None]}))
    assert "model_max_length is [None], not a number" in refused(*run_quietly())


def test_a_pruned_model_that_does_not_say_of_which_family_it_is(refused, here, model):
    spoil_config(model, model_type="hgsp")
    assert "architecture 'hgsp'" in refused("finetune", str(model), "--data_path", "pydoc", "--output_dir", "out")


def test_quantised_weights(refused, here, model):
    spoil_tensors(
        model, lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"].to(torch.int8)})
    )
    message = refused(*run_quietly())
    assert "stores 'model.norm.weight' as I8, which cannot be pruned. Convert the model to float32" in message
    spoil_config(model, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "config.json" not in message
    assert "quantised weights (gptq)" in refused(*run_quietly())
    for method, settings in {"fp8": "FineGrainedFP8Config", "mxfp4": "Mxfp4Config"}.items():
        spoil_config(model, quantization_config={"quant_method": method})
        message = refused(*run_quietly())
        assert f"quantised weights ({method})" in message
        assert f"quantization_config={settings}(dequantize=True)" in message
    spoil_config(model, quantization_config={})
    assert "quantised weights (quantization_config)" in refused(*run_quietly())


@pytest.mark.parametrize("scorer", ["magnitude", "taylor"])
def test_a_number_type_that_the_weights_would_overflow(refused, here, model, scorer):
    spoil_tensors(model, lambda tensors: tensors["model.layers.3.mlp.up_proj.weight"][7].fill_(7e4))
    message = refused(*run_quietly("--set", "model.dtype=float16", "--set", f"score.use={scorer}"))
    assert (
        "'model.layers.3.mlp.up_proj.weight' contains 70000, which float16 cannot represent (at most 65504)" in message
    )
    assert "Use model.dtype: bfloat16" in message


def test_a_shard_that_lacks_a_tensor(refused, here, model):
    names = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys([*names, "lm_head.weight"], "model-1.safetensors")})
    )
    message = refused(*run_quietly())
    assert "model-1.safetensors' has no tensor 'lm_head.weight'" in message


@pytest.mark.parametrize("scorer", ["magnitude", "taylor"])
def test_a_model_with_nan_among_its_weights(refused, here, model, scorer):
    spoil_tensors(model, lambda tensors: tensors["model.layers.3.mlp.up_proj.weight"][7].fill_(float("nan")))
    message = refused(*run_quietly("--set", f"score.use={scorer}"))
    assert "'model.layers.3.mlp.up_proj.weight' contains NaN" in message
    assert "again" in message


# --- the data


def needs_data(**calibrate):
    changed(score={"use": "taylor"}, calibrate={"samples": 2, "seq_len": 16, **calibrate})


def test_a_dataset_file_that_is_not_there(refused, here):
    needs_data(dataset="text.txt")
    assert "no file 'text.txt'" in refused(*run_quietly())


def test_a_dataset_file_of_an_unknown_kind(refused, here):
    (here / "text.docx").write_text("text")
    needs_data(dataset="text.docx")
    message = refused(*run_quietly())
    assert "text.docx" in message
    assert ".jsonl" in message


def test_an_empty_dataset(refused, here):
    (here / "text.txt").write_text("\n\n")
    needs_data(dataset="text.txt")
    assert "'text.txt' contains no text" in refused(*run_quietly())


@pytest.mark.parametrize("seq_len", [16, 2**62])
def test_a_dataset_that_is_too_short(refused, here, seq_len):
    (here / "text.txt").write_text("Only a few words.")
    needs_data(dataset="text.txt", seq_len=seq_len)
    message = refused(*run_quietly())
    assert f"'text.txt' has only 0 windows of {seq_len} tokens" in message
    assert "calibrate.seq_len" in message


# --- the result


def test_an_output_that_exists(refused, here):
    (here / "result").mkdir()
    message = refused(*run_quietly())
    assert "'result' exists" in message
    assert "--output DIR" in message


def test_an_output_that_cannot_be_made(refused, here):
    (here / "file").write_text("in the way")
    message = refused(*run_quietly("--output", "file/result"))
    assert "'file/result' cannot be created" in message


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_ratio_that_the_limits_make_impossible(refused, here, command):
    changed(allocate={"use": "hgsp", "with": {"ratio": 0.8, "temperature": 0, "limits": {"freeze_first": 4}}})
    message = refused(command, "recipe.yaml", "--quiet")
    assert "allocate.with.ratio: 0.8" in message
    assert "freeze_first" in message
    assert "Lower the ratio" in message


# --- the command line itself


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [(["run"], "RECIPE"), (["run", "recipe.yaml", "--ratio", "0.2"], "--ratio"), (["prun"], "prun")],
)
def test_an_unknown_option_or_command_is_a_users_mistake(here, monkeypatch, capsys, arguments, fault):
    monkeypatch.setattr(sys, "argv", ["hgsp", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert fault in err
    assert "Traceback" not in err


def test_a_disk_that_runs_full_half_way_leaves_nothing(here):
    """A limit on the size of a file gives the writer of weights the failing write of a full disk."""
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, resource.RLIM_INFINITY))\n"
        "from hgsp_core.cli import main; sys.argv = ['hgsp', 'run', 'recipe.yaml', '--quiet']; main()"
    )
    before = snapshot(here)
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, cwd=here)
    check_refusal(done.returncode, done.stdout, done.stderr)
    assert "cannot be written" in done.stderr
    assert "Its weights take 0.008 GB, and the disk has" in done.stderr
    assert snapshot(here) == before


# --- plugins, which are found anew in each process


def refused_process(here, *arguments, plugins=()):
    before = snapshot(here)
    done = hgsp(*arguments, cwd=here, plugins=plugins)
    check_refusal(done.returncode, done.stdout, done.stderr)
    assert snapshot(here) == before
    return done.stderr


@pytest.mark.parametrize(
    ("plugin", "scorer", "reasons"),
    [
        ("fails_to_import", "mine", ["'hgsp-fails' is broken", "No module named 'a_package_that_nobody_has'"]),
        ("misspells_a_hook", "mine", ["'hgsp-misspells' is broken", "Did you mean 'hgsp_scorers'?"]),
        ("doubles_its_own_name", "mine", ["'hgsp-twice' is broken", "provides the scorer 'mine' twice; rename one"]),
        ("doubles_a_name", "taylor", ["'hgsp-core/taylor'", " or ", "'hgsp-second-taylor/taylor'", "in the recipe"]),
    ],
    ids=lambda value: None,
)
def test_a_recipe_that_needs_a_broken_plugin_is_told_what_breaks_it(here, plugin, scorer, reasons):
    changed(score={"use": scorer})
    message = refused_process(here, *run_quietly(), plugins=[plugin])
    assert "recipe.yaml: score.use: " in message, message
    assert all(part in message for part in reasons), message


def test_a_model_of_a_known_plugin_that_is_not_installed(here, tmp_path):
    """An environment with everything but hgsp-llama: every installed package linked, that one left out."""
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "hgsp_llama" not in entry.name and entry.suffix != ".pth":
            (site / entry.name).symlink_to(entry)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
    command = [sys.executable, "-S", "-m", "hgsp_core", *run_quietly()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here, env=environment)
    check_refusal(done.returncode, done.stdout, done.stderr)
    assert "config.json: model_type" in done.stderr
    assert "pip install hgsp-llama" in done.stderr


@pytest.mark.parametrize(
    "setting",
    ["allocate.with.ratio=1.2", "score.use=tayler", "model.path=./nowhere", "output=taken", "calibrate.dataset=pydok"],
)
def test_such_mistakes_are_found_before_torch_is_imported(here, setting):
    (here / "taken").mkdir()
    changed(score={"use": "taylor"})
    code = (
        f"import sys; sys.argv = ['hgsp', 'run', 'recipe.yaml', '--quiet', '--set', {setting!r}]\n"
        "from hgsp_core.cli import main\ntry:\n main()\nfinally:\n print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here)
    assert (done.returncode, done.stdout) == (2, "False\n"), done.stderr
