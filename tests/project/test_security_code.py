"""No code that lies in a model directory is ever run, by no command and in none of its processes."""

import ast
import json
import shutil

import pytest
import yaml

from tests.helpers.command import ROOT
from tests.helpers.hostile import CONFIG_CLASS, MODEL_CLASS, Trap, add_code, set_keys, small_model

OURS = "modeling_hgsp.py"
RECIPE = {
    "calibrate": {"dataset": "pydoc", "samples": 4, "seq_len": 16},
    "score": {"use": "magnitude"},
    "prior": {"use": "similarity"},
    "allocate": {"use": "hgsp", "with": {"ratio": 0.2}},
    "reconstruct": {"use": "none"},
    "evaluate": [{"use": "perplexity", "with": {"datasets": ["pydoc"], "seq_len": 16, "max_windows": 2}}],
    "output": "out",
}
TRAINING = (
    "--data_path",
    "pydoc",
    "--num_samples",
    16,
    "--seq_len",
    16,
    "--num_epochs",
    1,
    "--batch_size",
    4,
    "--device",
    "cpu",
)


@pytest.fixture
def trap(tmp_path):
    """Beside the current directory of `said`; it must not be sprung."""
    trap = Trap(tmp_path.parent / f"{tmp_path.name}-sprung")
    yield trap
    assert not trap.sprung(), "code of a model directory was run"


@pytest.fixture
def model(tmp_path_factory, trap):
    """A model with code and pickles all around its weights."""
    folder = small_model(tmp_path_factory.mktemp("model") / "m")
    add_code(folder, trap)
    return folder


@pytest.fixture
def files(tmp_path_factory, model):
    """(recipe, sweep) for the model, and a sound model to put beside it."""
    folder = tmp_path_factory.mktemp("files")
    recipe = {**RECIPE, "model": {"path": str(model)}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    sweep = {"base": recipe, "grid": {"allocate.with.ratio": [0.2]}, "output": "sweep"}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    small_model(folder / "sound")
    return folder


def commands(model, files):
    """Every command that opens a model, each way it can be given one."""
    sound = files / "sound"
    perplexity = ("--dataset", "pydoc", "--seq_len", 16, "--max_samples", 2)
    return {
        "plan": ("plan", files / "recipe.yaml"),
        "run": ("run", files / "recipe.yaml"),
        "sweep": ("sweep", files / "sweep.yaml"),
        "prune": ("prune", "--base_model", model, "--pruning_ratio", 0.2, "--dataset", "pydoc", "--output", "out"),
        "baseline": (
            "baseline",
            "magnitude",
            "--base_model",
            model,
            "--pruning_ratio",
            0.2,
            "--dataset",
            "pydoc",
            "--output",
            "out",
        ),
        "eval": ("eval", model, *perplexity),
        "eval --dense": ("eval", sound, "--dense", model, *perplexity),
        "finetune": ("finetune", model, *TRAINING, "--output_dir", "out"),
        "finetune --dense": (
            "finetune",
            sound,
            "--dense",
            model,
            "--set",
            "distill=true",
            *TRAINING,
            "--output_dir",
            "out",
        ),
        "export": ("export", model, "--to", "huggingface", "--output", "out"),
        "export gguf": ("export", model, "--to", "gguf", "--output", "out"),
    }


@pytest.mark.parametrize(
    "auto_map", [MODEL_CLASS, {"AutoModel": "someone/else--evil.EvilModel"}], ids=["local", "of the hub"]
)
def test_every_command_refuses_a_model_class_of_the_models_own(said, tmp_path, model, files, auto_map):
    set_keys(model / "config.json", auto_map=auto_map)
    for name, command in commands(model, files).items():
        code, out, err = said(*command)
        assert (code, out) == (2, ""), (name, err)
        assert "auto_map: the model has custom code (" in err, (name, err)
        assert "Traceback" not in err, (name, err)
        assert not list(tmp_path.iterdir()), name
    code, out, _ = said("verify", model)
    assert code == 1
    assert "FAULT" in out
    assert "auto_map: the model has custom code (" in out


def test_every_command_refuses_an_attention_kernel_of_the_hub(said, tmp_path, model, files):
    set_keys(model / "config.json", attn_implementation="someone/evil-kernel")
    for name, command in commands(model, files).items():
        code, out, err = said(*command)
        assert (code, out) == (2, ""), (name, err)
        assert "'someone/evil-kernel' is a kernel from the hub" in err, (name, err)
        assert not list(tmp_path.iterdir()), name


def test_a_tokenizer_class_of_the_models_own_is_refused_where_there_is_no_tokenizer_json(said, tmp_path, model, files):
    (model / "tokenizer.json").unlink()
    set_keys(
        model / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["evil.EvilTokenizer", None]},
        tokenizer_class="EvilTokenizer",
    )
    for name, command in commands(model, files).items():
        if name not in ("plan", "run", "prune", "eval", "finetune", "export gguf"):
            continue  # needs no tokenizer of this model, or tells it of one of several runs
        code, out, err = said(*command)
        assert (code, out) == (2, ""), (name, err)
        assert "the tokenizer has custom code (evil.EvilTokenizer)" in err, (name, err)
        assert not list(tmp_path.iterdir()), name


def test_a_config_class_alone_and_a_tokenizer_class_beside_tokenizer_json_are_done_without(
    said, tmp_path, model, files
):
    """Everything works, and what is written names no code and holds none but this package's."""
    set_keys(model / "config.json", auto_map=CONFIG_CLASS)
    set_keys(model / "tokenizer_config.json", auto_map=["evil.EvilTokenizer", None], tokenizer_class="EvilTokenizer")
    exports = "export=[{use: huggingface}, {use: gguf}]"
    uniform = ("--set", "allocate={use: uniform, with: {ratio: 0.2, uniform: true}}", "--set", exports)
    done = {
        "run": ("run", files / "recipe.yaml", "--output", "run", "--set", exports),
        "run uniform": ("run", files / "recipe.yaml", "--output", "uniform", *uniform),
        "sweep": ("sweep", files / "sweep.yaml"),
        "eval": (
            "eval",
            "run",
            "--dense",
            model,
            "--dataset",
            "pydoc",
            "--seq_len",
            16,
            "--max_samples",
            2,
            "--efficiency",
        ),
        "finetune": (
            "finetune",
            "run",
            *TRAINING,
            "--dense",
            model,
            "--set",
            "distill=true",
            "--output_dir",
            "trained",
        ),
        "finetune full": ("finetune", model, "--finetune_method", "full", *TRAINING, "--output_dir", "full"),
        "export": ("export", model, "--to", "huggingface", "--output", "export"),
        "export run": ("export", "run", "--to", "huggingface", "--output", "again"),
    }
    for name, command in done.items():
        code, out, err = said(*command)
        assert code == 0, (name, out, err)
    written = [path.parent for path in tmp_path.rglob("config.json")]
    assert len(written) == len({"run", "uniform", "sweep", "trained", "full", "export", "again"})
    for folder in written:
        names = {path.name for path in folder.rglob("*") if path.is_file()}
        config = json.loads((folder / "config.json").read_text())
        layered = config["model_type"] == "hgsp"
        assert not [n for n in names if n.endswith((".py", ".bin", ".pt", ".pkl")) and not (layered and n == OURS)], (
            names
        )
        assert not (folder / "custom_generate").exists()
        assert ("auto_map" in config) == layered == (OURS in names)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        assert "auto_map" not in settings
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    for folder in ("run", "uniform", "trained/model", "full/model", "export/model", "again/model", model):
        code, out, err = said("verify", folder)
        assert code == 0, (folder, out, err)


@pytest.fixture
def pruned(said, tmp_path, files):
    """A model of many sizes, pruned from a sound one."""
    code, _, err = said("run", files / "recipe.yaml", "--set", f"model.path={files / 'sound'}", "--output", "run")
    assert code == 0, err
    return tmp_path / "run" / "model"


def uses_of(pruned):
    """What runs a pruned model."""
    return {
        "eval": ("eval", pruned, "--dataset", "pydoc", "--seq_len", 16, "--max_samples", 2),
        "finetune": ("finetune", pruned, *TRAINING, "--output_dir", "trained"),
        "export": ("export", pruned, "--to", "huggingface", "--output", "again"),
        "export run": ("export", pruned.parent, "--to", "huggingface", "--output", "again-run"),
        "export gguf": ("export", pruned, "--to", "gguf", "--output", "gguf"),
    }


@pytest.mark.parametrize("how", ["file", "auto_map"])
def test_a_tampered_modeling_file_is_never_run_nor_passed_on(said, tmp_path, pruned, trap, how):
    ours = (pruned / OURS).read_bytes()
    if how == "file":
        (pruned / OURS).write_text(trap.source + ours.decode())
    else:
        add_code(pruned, trap)
        set_keys(pruned / "config.json", auto_map=MODEL_CLASS)
    (pruned / "hgsp.json").unlink()  # whose checksums whoever tampers would mend
    for name, command in uses_of(pruned).items():
        code, _, err = said(*command)
        assert code == 0, (name, err)
    for folder in (tmp_path / "again/model", tmp_path / "again-run/model", tmp_path / "trained/model"):
        assert (folder / OURS).read_bytes() == ours
        code, out, _ = said("verify", folder)
        assert code == 0, out
        assert f"{OURS} is hgsp-core's own" in out, out
    code, out, _ = said("verify", pruned)
    fault = "is not the file of this version of hgsp-core" if how == "file" else "auto_map names other code than hgsp's"
    assert code == 1
    assert fault in out
    assert "read it before you load it with trust_remote_code=True" in out


def test_a_chat_template_that_leaves_its_sandbox_ends_in_a_message(said, tmp_path, tmp_path_factory, files, trap):
    model = files / "sound"
    template = "{{ cycler.__init__.__globals__.os.system('touch " + str(trap.path) + "') }}"
    (model / "chat_template.jinja").write_text(template)
    chats = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
    chats.write_text((json.dumps({"messages": turns}) + "\n") * 4)
    code, _, err = said("finetune", model, "--data_path", chats, *TRAINING[2:], "--output_dir", "out")
    assert code == 2, err
    assert "chat template" in err, err
    assert "unsafe" in err, err
    assert "Traceback" not in err, err
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_names_a_module_is_refused(said, tmp_path, files, trap):
    from safetensors.numpy import save_file

    adapter = files / "adapter"
    adapter.mkdir()
    save_file({}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "megatron_config": {"x": 1}, "megatron_core": "antigravity"})
    )
    code, _, err = said("finetune", files / "sound", *TRAINING, "--set", f"adapter={adapter}", "--output_dir", "out")
    assert code == 2
    assert "megatron_config" in err
    assert not list(tmp_path.iterdir())


def test_only_the_kept_files_are_copied(tmp_path, model, trap):
    """A folder or a link that is named like a tokenizer is none."""
    from hgsp_core.checkpoint.read import read_config
    from hgsp_core.checkpoint.write import copy_checkpoint

    for name in ("tokenizer_more", "additional_chat_templates"):
        (model / name).mkdir()
        (model / name / "evil.py").write_text(trap.source)
        (model / name / "tools.jinja").write_text("{{ messages }}")
    copy_checkpoint(model, read_config(model), tmp_path / "copy", shutil.copy2)
    names = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "additional_chat_templates/tools.jinja",
    }  # fmt: skip


def calls(path):
    """Every call in a file: what is called, and its arguments by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


FILES = [*(ROOT / "hgsp_core").rglob("*.py"), *ROOT.glob("plugins/*/hgsp_*/*.py")]


def test_every_call_that_transformers_could_run_code_in_says_that_it_must_not():
    """peft's PeftModel takes no such argument and runs none."""
    found = 0
    for path in FILES:
        for called, arguments in calls(path):
            if called.endswith((".from_pretrained", ".from_config")) and called != "PeftModel.from_pretrained":
                found += 1
                assert arguments.get("trust_remote_code") == "False", (path, called)
    assert found >= 5


def test_python_processes_are_started_in_one_place():
    for path in FILES:
        if path.name != "fresh.py":
            assert "sys.executable" not in path.read_text(encoding="utf-8"), path
            assert not [called for called, _ in calls(path) if called.startswith("subprocess.")], path
