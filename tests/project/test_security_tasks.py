"""Task files of the user's own run code only with an explicit permission, and their templates stay in a sandbox."""

import json

import pytest

from hgsp_core.evaluate.errors import EvaluationError
from hgsp_core.evaluate.harness import LmEval, LmEvalParams
from tests.helpers.command import MODEL
from tests.helpers.hostile import Trap
from tests.helpers.tasks import write_questions, write_task

#: what is added to a plain task -> what the message quotes
CODE = {
    "a function": ("process_docs: !function evil.function", "!function evil.function"),
    "a class": ("class: !function evil.function", "!function evil.function"),
    "a class by name": ("class: evil.function", "class: evil.function"),
    "an object of Python": ("description: !!python/object/apply:evil.function []", "python/object/apply:evil.function"),
    "an included function": ("include: more.yml", "!function evil.function"),
    "a metric of its own": ("metric_list: [{metric: EVIL}]", "the metric"),
    "a metric of the hub": ("metric_list: [{metric: acc, hf_evaluate: true}]", "the metric acc"),
    "a task within a group": ("group: g\ntask: [{task: x, metric_list: [{metric: EVIL}]}]", "the metric"),
}


@pytest.fixture
def trap(tmp_path_factory):
    return Trap(tmp_path_factory.mktemp("trap") / "sprung")


@pytest.fixture
def folder(tmp_path_factory, trap):
    """A directory with one plain task, and Python beside it."""
    folder = tmp_path_factory.mktemp("tasks")
    questions = [(text, [" yes", " no"], 0) for text in ("Is it?", "Was it?")]
    write_task(folder, "mine", write_questions(folder / "data.jsonl", questions))
    (folder / "evil.py").write_text(
        trap.source + "def function(*args, **kwargs):\n    return args[0] if args else None\n"
    )
    (folder / "more.yml").write_text("process_docs: !function evil.function\n")
    return folder


def evaluate(folder, *more):
    task = ("--set", "evaluate.0.with.include_path=" + json.dumps(str(folder)))
    return ("eval", MODEL, "--dataset", "none", "--tasks", "mine", *task, *more)


def test_a_plain_task_needs_no_permission_and_runs_nothing_that_lies_beside_it(said, folder, trap):
    code, out, err = said(*evaluate(folder))
    assert code == 0, err
    assert "accuracy, mine" in out, err
    assert not trap.sprung()


@pytest.mark.parametrize("what", CODE)
def test_a_task_file_that_names_code_is_refused_before_it_is_read(refused, folder, trap, what):
    added, quoted = CODE[what]
    (folder / "other.yaml").write_text("task: other\n" + added.replace("EVIL", str(folder / "evil.py")) + "\n")
    message = refused(*evaluate(folder))
    named = "more.yml" if "include" in added else "other.yaml"
    assert f"include_path: '{folder / named}' references code: " in message
    assert quoted in message
    assert "set trust_task_code: true next to include_path" in message
    assert not trap.sprung()


def test_with_the_permission_the_code_is_run(said, folder, trap):
    with (folder / "mine.yaml").open("a") as file:
        file.write("process_docs: !function evil.function\n")
    code, out, err = said(*evaluate(folder, "--set", "evaluate.0.with.trust_task_code=true"))
    assert code == 0, err
    assert "accuracy, mine" in out, err
    assert trap.sprung()


def test_the_permission_alone_means_nothing(refused):
    message = refused(
        "eval", MODEL, "--dataset", "none", "--tasks", "piqa", "--set", "evaluate.0.with.trust_task_code=true"
    )
    assert "trust_task_code requires include_path" in message


@pytest.mark.parametrize("late", [False, True], ids=["every document", "the last document"])
def test_a_template_cannot_leave_its_sandbox(refused, folder, trap, late):
    escape = "{{ cycler.__init__.__globals__.os.system('touch " + str(trap.path) + "') }}"
    template = "{% if question == 'Was it?' %}" + escape + "{% endif %}" if late else escape
    write_task(folder, "mine", folder / "data.jsonl", doc_to_text=template)
    message = refused(*evaluate(folder))
    assert "lm_eval" in message
    assert "unsafe" in message
    assert not trap.sprung()


def test_aliases_that_multiply_cost_nothing_and_a_broken_file_is_passed_over(folder):
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))]
    (folder / "bomb.yaml").write_text("\n".join(lines))
    (folder / "broken.yaml").write_text("task: [")
    with pytest.raises(EvaluationError, match="has no 'nothing'"):
        LmEval(LmEvalParams(tasks=("nothing",), include_path=str(folder)))
