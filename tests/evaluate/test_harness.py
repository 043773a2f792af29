"""lm-eval on models in memory: its accuracy is that of likelihoods computed by hand; it runs on pruned models too."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from hgsp_core.checkpoint.load import load_model, load_tokenizer
from hgsp_core.evaluate.checkpoint import evaluate_checkpoint
from hgsp_core.evaluate.errors import EvaluationError
from hgsp_core.evaluate.harness import LmEval, LmEvalParams
from hgsp_core.evaluate.run import open_evaluators
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import Use
from tests.helpers.command import MODEL, hgsp
from tests.helpers.evaluations import prune_demo_model
from tests.helpers.tasks import CHOICE, GENERATE, write_questions, write_task

QUESTIONS = [
    ("If the argument is not given, the default value", [" is used.", " apples.", " raises the sea by ten metres."], 0),
    ("Return the number of", [" green.", " items in the list.", " of of."], 1),
    ("This function raises a", [" ValueError", " the", " spoon of sugar"], 0),
    ("The following example shows", [" a a a a", " purple", " how to use the module"], 2),
    ("Changed in version", [" monkey.", " 3.8:", " of the a"], 1),
    ("The module provides", [" x", " a simple interface", " functions"], 1),
    ("An instance of the class", [" is created when the file is opened", " no", " zebra zebra zebra"], 0),
    ("For example, the string", [" object", " is, is, is, is, is, is", " moon"], 0),
]
TASK = CHOICE | {"metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}], "metadata": {"version": 3.0}}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A directory with two tasks; the second bears a name whose accuracy the literature reports normalised."""
    directory = tmp_path_factory.mktemp("tasks")
    data = write_questions(directory / "questions.jsonl", QUESTIONS)
    for name in ("pydoc_choice", "openbookqa"):
        write_task(directory, name, data, TASK)
    return directory


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    return prune_demo_model(tmp_path_factory.mktemp("model") / "pruned")


@torch.no_grad()
def by_hand(model) -> dict[str, float]:
    """Share of right answers, by the likelihood of a choice after its question, and by likelihood per byte."""
    tokenizer = load_tokenizer(MODEL)
    right = {"acc": 0, "acc_norm": 0}
    for question, choices, gold in QUESTIONS:
        likelihoods = []
        for choice in choices:
            start, whole = (
                tokenizer(text, add_special_tokens=False)["input_ids"] for text in (question, question + choice)
            )
            log_p = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            likelihoods.append(sum(log_p[i - 1, whole[i]].item() for i in range(len(start), len(whole))))
        per_byte = [value / len(choice) for value, choice in zip(likelihoods, choices, strict=True)]
        right["acc"] += likelihoods.index(max(likelihoods)) == gold
        right["acc_norm"] += per_byte.index(max(per_byte)) == gold
    return {metric: count / len(QUESTIONS) for metric, count in right.items()}


def lm_eval(folder, **params) -> Use:
    return Use.model_validate({"use": "lm_eval", "with": {"include_path": str(folder), "batch_size": 3, **params}})


def test_accuracy_is_that_of_likelihoods_by_hand_on_a_dense_and_on_a_pruned_model(tasks, pruned):
    use = lm_eval(tasks, tasks=["pydoc_choice", "openbookqa"])
    result = evaluate_checkpoint(pruned, [use], LogMonitor(), dense=MODEL)
    for side, directory in (("before", MODEL), ("after", pruned)):
        expected = by_hand(load_model(directory)[0])
        found = result[side]
        assert found["accuracy"] == {
            "pydoc_choice": expected["acc"],
            "openbookqa": expected["acc_norm"],
            "mean of 2 tasks": (expected["acc"] + expected["acc_norm"]) / 2,
        }
        for name in ("pydoc_choice", "openbookqa"):
            assert found["lm_eval_details"][name].items() >= expected.items()
        assert found["accuracy_protocol"]["openbookqa"] == {
            "metric": "acc_norm",
            "num_fewshot": 0,
            "documents": len(QUESTIONS),
            "version": 3.0,
        }
    assert 0.3 < result["before"]["accuracy"]["pydoc_choice"] < 1  # neither trivial nor impossible
    assert result["before"]["lm_eval_details"] != result["after"]["lm_eval_details"]
    assert set(result["ratio"]["accuracy"]) == set(found["accuracy"])


#: lm-eval alone, as its users call it, in a process that cannot import hgsp
ALONE = """
import sys
sys.modules["hgsp_core"] = None
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

model, tasks = sys.argv[1:]
manager = TaskManager(include_path=tasks, include_defaults=False)
lm = HFLM(pretrained=model, trust_remote_code=True, device="cpu", batch_size=3)
found = simple_evaluate(model=lm, tasks=["pydoc_choice"], task_manager=manager)["results"]["pydoc_choice"]
print("RESULT", found["acc,none"], found["acc_norm,none"], type(lm.model).__name__)
"""


def test_lm_evals_own_hflm_gives_the_same_on_the_pruned_directory_without_hgsp(tasks, pruned, tmp_path):
    command = [sys.executable, "-P", "-c", ALONE, str(pruned), str(tasks)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "RESULT" in done.stdout, done.stderr
    acc, acc_norm, name = done.stdout.split("RESULT")[1].split()
    expected = by_hand(load_model(pruned)[0])
    assert (float(acc), float(acc_norm), name) == (expected["acc"], expected["acc_norm"], "HgspForCausalLM")


def test_limit_and_examples_give_what_the_librarys_own_entry_point_gives(tasks):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    use = lm_eval(tasks, tasks=["pydoc_choice"], limit=7, num_fewshot=2)
    found = evaluate_checkpoint(MODEL, [use], LogMonitor())["after"]
    assert found["accuracy_protocol"]["pydoc_choice"].items() >= {"documents": 7, "num_fewshot": 2}.items()
    assert list(found["accuracy"]) == ["pydoc_choice"]

    lm = HFLM(pretrained=load_model(MODEL)[0], tokenizer=load_tokenizer(MODEL), backend="causal", batch_size=3)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    theirs = simple_evaluate(lm, tasks=["pydoc_choice"], limit=7, num_fewshot=2, task_manager=manager)["results"][
        "pydoc_choice"
    ]
    ours = found["lm_eval_details"]["pydoc_choice"]
    assert ours == {name: theirs[f"{name},none"] for name in ("acc", "acc_stderr", "acc_norm", "acc_norm_stderr")}


def test_what_the_result_depends_on_is_told_and_changes_with_the_data(tasks, tmp_path):
    def inputs(folder, **params):
        return LmEval(LmEvalParams(tasks=("pydoc_choice",), include_path=str(folder), **params)).inputs()

    shutil.copytree(tasks, tmp_path / "copy")
    assert inputs(tasks) == inputs(tasks, batch_size=1)
    assert inputs(tasks) != inputs(tasks, limit=3)
    questions = tasks / "questions.jsonl"
    other = tmp_path / "copy" / "questions.jsonl"
    other.write_text(questions.read_text().replace("apples", "pears"))
    task = tmp_path / "copy" / "pydoc_choice.yaml"
    task.write_text(task.read_text().replace(str(questions), str(other)))
    assert inputs(tmp_path / "copy")["tasks"] != inputs(tasks)["tasks"]


@pytest.mark.slow  # likewise, for a name that is no task of the folder but a group
def test_a_task_that_is_asked_for_twice_is_refused_before_any_work(tasks, tmp_path):
    shutil.copy(tasks / "pydoc_choice.yaml", tmp_path)
    (tmp_path / "group.yaml").write_text("group: both\ntask: [pydoc_choice]\n")
    with pytest.raises(EvaluationError, match=r"Duplicate task 'pydoc_choice'.*Remove one of the two"):
        open_evaluators([lm_eval(tmp_path, tasks=["both", "pydoc_choice"])])


def test_progress_reaches_the_end(tasks):
    from hgsp_core.engine.likelihood import model_loss
    from hgsp_core.evaluate.contract import EvaluateJob

    steps = []
    job = EvaluateJob(
        load_model(MODEL)[0], load_tokenizer(MODEL), model_loss, 0, lambda done, total: steps.append((done, total))
    )
    LmEval(LmEvalParams(tasks=("pydoc_choice",), include_path=str(tasks)))(job)
    assert steps == sorted(steps)
    assert steps[-1] == (24, 24)


def test_a_task_folder_that_is_not_there_is_one_error(tmp_path):
    with pytest.raises(EvaluationError, match="include_path: there is no directory"):
        open_evaluators([lm_eval(tmp_path / "nowhere")])


def test_a_task_whose_data_is_missing_is_found_before_any_work(tmp_path):
    write_task(tmp_path, "lost", tmp_path / "lost.jsonl", TASK)
    with pytest.raises(EvaluationError, match="the task 'lost' cannot be prepared"):
        open_evaluators([lm_eval(tmp_path, tasks=["lost"])])


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(EvaluationError, match=r"pip install 'hgsp-core\[eval\]'"):
        open_evaluators([Use(use="lm_eval")])


@pytest.mark.slow  # lm-eval reads the files of all its tasks, which takes ten seconds
def test_an_unknown_task_is_one_message_with_the_nearest_names_and_nothing_is_made(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {{path: {MODEL}}}\ncalibrate: {{dataset: pydoc}}\noutput: out\n"
        "evaluate: [{use: lm_eval, with: {tasks: [hellaswagg, piqa]}}]\n"
    )
    done = hgsp("run", recipe, "--quiet", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: evaluate: lm_eval: tasks: lm-eval has no 'hellaswagg' (near: hellaswag")
    assert len(done.stderr.strip().splitlines()) == 1
    assert "piqa" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_tokenizer_without_special_tokens_gives_the_same_answers_and_the_protocol_names_the_stand_in(tasks, tmp_path):
    """The tasks' questions are not empty, so that no token need stand before them: accuracy is that with special tokens."""
    bare = tmp_path / "bare"
    shutil.copytree(MODEL, bare)
    settings = json.loads((bare / "tokenizer_config.json").read_text())
    kept = {key: value for key, value in settings.items() if not key.endswith("_token")}
    (bare / "tokenizer_config.json").write_text(json.dumps(kept))
    assert load_tokenizer(bare).eos_token_id is None
    assert load_tokenizer(bare).bos_token_id is None
    folder = tmp_path / "tasks"
    folder.mkdir()
    shutil.copy(tasks / "pydoc_choice.yaml", folder)
    write_task(folder, "pydoc_generate", tasks / "questions.jsonl", GENERATE)
    use = lm_eval(folder, tasks=["pydoc_choice", "pydoc_generate"])
    with_tokens = evaluate_checkpoint(MODEL, [use], LogMonitor())["after"]
    without = evaluate_checkpoint(bare, [use], LogMonitor())["after"]
    assert without["lm_eval_details"]["pydoc_choice"]["acc"] == with_tokens["lm_eval_details"]["pydoc_choice"]["acc"]
    assert "pydoc_generate" in without["accuracy"]
    assert {protocol["first_token"] for protocol in without["accuracy_protocol"].values()} == {0}
    assert not any("first_token" in protocol for protocol in with_tokens["accuracy_protocol"].values())
