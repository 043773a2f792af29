"""Fidelity: every number equals a plain computation with transformers and numpy; both models need not fit in memory together."""

import gc
import json
import math
import shutil
import weakref

import numpy as np
import pytest
import torch
import yaml

from hgsp_core.checkpoint.load import load_model, load_tokenizer
from hgsp_core.data.errors import DataError
from hgsp_core.data.run import windows
from hgsp_core.errors import RecipeError
from hgsp_core.evaluate import fidelity as module
from hgsp_core.evaluate.checkpoint import evaluate_checkpoint
from hgsp_core.evaluate.errors import EvaluationError
from hgsp_core.evaluate.run import open_evaluators
from hgsp_core.pipeline import run
from hgsp_core.report.comparison import markdown, run_table
from hgsp_core.report.runs import comparison, load_runs
from hgsp_core.report.tables import headline
from hgsp_core.runtime.monitor import LogMonitor
from hgsp_core.runtime.recipe import Use, parse_recipe
from hgsp_core.runtime.store import Store
from tests.helpers.command import MODEL, hgsp
from tests.helpers.evaluations import prune_demo_model
from tests.helpers.tasks import GENERATE, LAST_WORD, write_questions, write_task

SEQ_LEN, WINDOWS = 24, 10
QUESTIONS = [
    ("If the argument is not given, the default value", [" is used.", " apples.", " raises the sea by ten metres."], 0),
    ("Return the number of", [" green.", " items in the list."], 1),
    ("This function raises a", [" ValueError", " the", " spoon of sugar", " of"], 0),
    ("The following example shows", [" a a a a", " purple", " how to use the module"], 2),
    ("Changed in version", [" monkey.", " 3.8:", " of the a"], 1),
]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    return prune_demo_model(tmp_path_factory.mktemp("model") / "pruned")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tasks")
    data = write_questions(directory / "questions.jsonl", QUESTIONS)
    one = write_questions(directory / "one.jsonl", QUESTIONS[:1])
    write_task(directory, "choice", data, metric_list=[{"metric": "acc"}, {"metric": "acc_mutual_info"}])
    write_task(directory, "single", one)
    write_task(directory, "last_word", data, LAST_WORD)
    write_task(directory, "generates", data, GENERATE)
    return directory


def fidelity(**params) -> Use:
    return Use.model_validate({"use": "fidelity", "with": params})


def of_texts(**params) -> Use:
    return fidelity(**{"datasets": ["pydoc"], "seq_len": SEQ_LEN, "max_windows": WINDOWS, "batch_size": 4, **params})


def of_tasks(folder, *names, **params) -> Use:
    return fidelity(**{"datasets": [], "tasks": names, "include_path": str(folder), "batch_size": 3, **params})


def measured(use, dense, pruned, **options):
    return evaluate_checkpoint(pruned, [use], LogMonitor(), dense=dense, **options)


def error_of(values) -> float:
    return np.std(values, ddof=1) / math.sqrt(len(values))


@torch.no_grad()
def texts_by_hand(pruned) -> tuple[list[float], list[float]]:
    """KL and share of equal most likely tokens of each window."""
    text = (MODEL.parents[1] / "hgsp_core" / "texts" / "pydoc" / "evaluation.txt").read_text()
    ids = torch.from_numpy(windows(text.strip("\n"), load_tokenizer(MODEL), SEQ_LEN)[:WINDOWS])
    p, q = (load_model(directory)[0](ids).logits[:, :-1].double().log_softmax(-1) for directory in (MODEL, pruned))
    kl = (p.exp() * (p - q)).sum(-1).mean(1)
    return kl.tolist(), (p.argmax(-1) == q.argmax(-1)).double().mean(1).tolist()


@torch.no_grad()
def likelihoods_by_hand(directory) -> list[list[float]]:
    """Log likelihood of each choice of each question, and whether it is what the model answers greedily."""
    model, tokenizer = load_model(directory)[0], load_tokenizer(MODEL)
    found = []
    for question, choices, _ in QUESTIONS:
        found.append([])
        for choice in choices:
            start, ids = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (question, question + choice))
            log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            of_choice = range(len(start), len(ids))
            greedy = all(log_p[i - 1].argmax() == ids[i] for i in of_choice)
            found[-1].append((sum(log_p[i - 1, ids[i]].item() for i in of_choice), greedy))
    return found


def test_texts_give_kl_and_agreement_by_hand_with_the_standard_error_over_windows(pruned, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * 4096 * 5)  # a few positions at a time
    result = measured(of_texts(), MODEL, pruned)
    kl, same = texts_by_hand(pruned)
    after = result["after"]
    assert 0.01 < np.mean(kl) < 5
    assert after["kl_to_dense"]["pydoc"] == pytest.approx(np.mean(kl), rel=1e-4)
    assert after["kl_to_dense_stderr"]["pydoc"] == pytest.approx(error_of(kl), rel=1e-3)
    assert after["same_top_token"]["pydoc"] == pytest.approx(np.mean(same))
    assert after["same_top_token_stderr"]["pydoc"] == pytest.approx(error_of(same))
    assert after["kl_to_dense_protocol"]["pydoc"].items() >= {"seq_len": SEQ_LEN, "windows": WINDOWS}.items()
    assert result["before"]["kl_to_dense"] == {"pydoc": 0}
    assert result["before"]["same_top_token"] == {"pydoc": 1}


def test_streamed_models_give_the_same_numbers_over_texts(pruned, monkeypatch):
    resident = measured(of_texts(), MODEL, pruned)["after"]
    monkeypatch.setattr("hgsp_core.engine.memory.free_bytes", lambda device: 2**20)
    streamed = measured(of_texts(), MODEL, pruned)["after"]
    for metric in ("kl_to_dense", "kl_to_dense_stderr", "same_top_token"):
        assert streamed[metric]["pydoc"] == pytest.approx(resident[metric]["pydoc"], rel=1e-4)


def test_questions_give_kl_of_choices_nats_and_accuracy_by_hand_in_pairs(pruned, tasks):
    result = measured(of_tasks(tasks, "choice", "last_word"), MODEL, pruned)
    before, after = result["before"], result["after"]
    dense, ours = likelihoods_by_hand(MODEL), likelihoods_by_hand(pruned)
    kl, right, nats, greedy = [], [], [], []
    for a, b, (_, _, gold) in zip(dense, ours, QUESTIONS, strict=True):
        x, y = (np.array([likelihood for likelihood, _ in answers]) for answers in (a, b))
        p, q = (np.exp(values) / np.exp(values).sum() for values in (x, y))
        kl.append((p * np.log(p / q)).sum())
        right.append((float(x.argmax() == gold), float(y.argmax() == gold)))
        nats.append((-a[gold][0], -b[gold][0]))
        greedy.append((float(a[gold][1]), float(b[gold][1])))
    assert after["kl_of_choices"] == {"choice": pytest.approx(np.mean(kl), rel=1e-4)}
    assert after["kl_of_choices_stderr"] == {"choice": pytest.approx(error_of(kl), rel=1e-4)}
    for name, pairs in (("choice", right), ("last_word", greedy)):
        change = [b - a for a, b in pairs]
        assert before["answer_accuracy"][name] == pytest.approx(np.mean([a for a, _ in pairs]))
        assert after["answer_accuracy"][name] == pytest.approx(np.mean([b for _, b in pairs]))
        assert after["answer_accuracy_change"][name] == pytest.approx(np.mean(change))
        assert after["answer_accuracy_change_stderr"][name] == pytest.approx(error_of(change))
    assert before["target_nats"] == {"last_word": pytest.approx(np.mean([a for a, _ in nats]), rel=1e-5)}
    assert after["target_nats"] == {"last_word": pytest.approx(np.mean([b for _, b in nats]), rel=1e-5)}
    change = [b - a for a, b in nats]
    assert after["target_nats_change"] == {"last_word": pytest.approx(np.mean(change), rel=1e-4)}
    assert after["target_nats_change_stderr"] == {"last_word": pytest.approx(error_of(change), rel=1e-4)}
    assert after["answers_protocol"]["choice"]["documents"] == len(QUESTIONS)
    limited = measured(of_tasks(tasks, "choice", limit=3), MODEL, pruned)["after"]
    assert limited["kl_of_choices"]["choice"] == pytest.approx(np.mean(kl[:3]), rel=1e-4)


@torch.no_grad()
def greedy_by_hand(directory, prompts) -> list[list[int]]:
    model, found = load_model(directory)[0], []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(16):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        found.append(ids[len(prompt) :])
    return found


def test_greedy_answers_are_those_without_a_cache_and_their_common_beginning_is_counted(pruned):
    after = measured(of_texts(prompts=6), MODEL, pruned)["after"]
    text = (MODEL.parents[1] / "hgsp_core" / "texts" / "pydoc" / "evaluation.txt").read_text()
    prompts = windows(text.strip("\n"), load_tokenizer(MODEL), SEQ_LEN)[:6].tolist()
    pairs = list(zip(greedy_by_hand(MODEL, prompts), greedy_by_hand(pruned, prompts), strict=True))
    same = [float(a == b) for a, b in pairs]
    common = [next((i for i in range(16) if a[i] != b[i]), 16) for a, b in pairs]
    assert 0 < np.mean(common) < 16
    assert after["same_greedy_answer"] == {"pydoc": np.mean(same)}
    assert after["same_greedy_tokens"] == {"pydoc": pytest.approx(np.mean(common))}
    assert after["same_greedy_tokens_stderr"] == {"pydoc": pytest.approx(error_of(common))}


def test_instructions_are_asked_in_the_chat_template(tmp_path):
    from hgsp_core.evaluate.greedy import prompts_of

    data = tmp_path / "instructions.jsonl"
    rows = [{"instruction": "List the modules", "input": "os, re", "text": "x"}, {"instruction": "Say it", "text": "y"}]
    data.write_text("\n".join(map(json.dumps, rows)))
    (evaluator,) = (e for _, e in open_evaluators([fidelity(datasets=[str(data)], prompts=2)]).paired)
    tokenizer = load_tokenizer(MODEL)
    plain = prompts_of(evaluator.texts[0], tokenizer, None, 2)
    assert [tokenizer.decode(ids) for ids in plain] == ["List the modules\n\nos, re", "Say it"]
    tokenizer.chat_template = "{% for m in messages %}user: {{ m.content }}\n{% endfor %}model:"
    chats = prompts_of(evaluator.texts[0], tokenizer, None, 2)
    assert [tokenizer.decode(ids) for ids in chats] == [
        "user: List the modules\n\nos, re\nmodel:",
        "user: Say it\nmodel:",
    ]


def test_a_model_does_not_differ_from_itself(tasks):
    use = of_texts(tasks=["choice", "last_word"], include_path=str(tasks), prompts=3)
    after = measured(use, MODEL, MODEL)["after"]
    for metric in ("kl_to_dense", "kl_of_choices", "answer_accuracy_change", "target_nats_change"):
        assert set(after[metric].values()) == set(after[f"{metric}_stderr"].values()) == {0.0}
    assert after["same_top_token"] == after["same_greedy_answer"] == {"pydoc": 1.0}
    assert after["same_greedy_tokens"] == {"pydoc": 16.0}


def test_models_that_do_not_fit_together_give_the_same_numbers(pruned, tasks, monkeypatch):
    use = of_texts(tasks=["choice", "last_word"], include_path=str(tasks), prompts=3)
    expected = measured(use, MODEL, pruned)["after"]
    models = weakref.WeakSet()

    def load(*arguments):
        model, config = load_model(*arguments)
        models.add(model)
        return model, config

    def free(device):
        """Of 16 MB, what the models that are alive leave: enough for the original's 9.5 only while the pruned one is gone."""
        gc.collect()
        return 16_000_000 - sum(4 * model.num_parameters() for model in models)

    monkeypatch.setattr("hgsp_core.checkpoint.load.load_model", load)
    monkeypatch.setattr("hgsp_core.engine.memory.free_bytes", free)
    said = []
    monitor = LogMonitor()
    monkeypatch.setattr(monitor, "say", said.append)
    apart = evaluate_checkpoint(pruned, [use], monitor, dense=MODEL)["after"]
    assert any("do not fit in memory together" in line for line in said)
    for metric in ("kl_to_dense", "kl_of_choices", "target_nats_change", "same_greedy_tokens", "same_top_token"):
        assert apart[metric] == pytest.approx(expected[metric], rel=1e-4)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"datasets": []}, "nothing to measure: give datasets or tasks"),
        ({"datasets": [], "tasks": [], "prompts": 3}, "nothing to measure"),
        ({"datasets": ["pydoc"], "include_path": "."}, "include_path requires tasks"),
        ({"datasets": [], "tasks": ["x"], "prompts": 3}, "prompts requires datasets"),
        ({"datasets": ["pydoc"], "max_windows": 1}, "max_windows"),
    ],
)
def test_settings_that_measure_nothing_are_one_message(params, message, tmp_path):
    with pytest.raises(RecipeError, match=message) as raised:
        recipe_of(tmp_path, params)
    assert str(raised.value).count("evaluate.0") == 1


def test_tasks_that_cannot_be_compared_are_refused_before_any_work(tasks):
    for name, message in {
        "generates": "'generates' is of output_type generate_until",
        "single": "the task 'single' has 1 questions, but at least 2 are needed",
    }.items():
        with pytest.raises(EvaluationError, match=f"evaluate: fidelity: .*{message}"):
            open_evaluators([of_tasks(tasks, name)])
    with pytest.raises(EvaluationError, match="the task 'choice' has 1 questions"):
        open_evaluators([of_tasks(tasks, "choice", limit=1)])
    with pytest.raises(EvaluationError, match="evaluate: fidelity: include_path: there is no directory"):
        open_evaluators([of_tasks(tasks / "nowhere", "choice")])
    with pytest.raises(DataError, match="There is no file 'nowhere"):
        open_evaluators([fidelity(datasets=["nowhere.txt"])])


@pytest.mark.slow  # lm-eval reads the files of all its tasks, which takes ten seconds
def test_an_unknown_task_is_named_with_the_nearest(tasks):
    with pytest.raises(EvaluationError, match=r"evaluate: fidelity: tasks: lm-eval.* has no 'hellaswagg'"):
        open_evaluators([of_tasks(tasks, "hellaswagg")])


def test_a_text_too_short_for_a_standard_error_is_refused_before_the_model_is_pruned(tmp_path, monkeypatch):
    monkeypatch.setattr("hgsp_core.runtime.cut.cut", lambda *arguments: pytest.fail("it went on"))
    short = tmp_path / "short.txt"
    short.write_text("Return the number of items in the list. " * 4)
    for params, message in (
        ({"datasets": [str(short)]}, r"short.txt' has \d windows of 24 tokens, but at least"),
        ({"datasets": ["pydoc"], "prompts": 100_000}, r"'pydoc' has \d+ windows of 24 tokens for prompts, but"),
    ):
        with pytest.raises(EvaluationError, match=message):
            run(recipe_of(tmp_path, {"seq_len": SEQ_LEN, **params}), store=Store(tmp_path / "store"))
        assert not (tmp_path / "out").exists()


def test_one_model_alone_is_refused_with_the_flag_that_is_missing(tmp_path):
    recipe = tmp_path / "measure.yaml"
    recipe.write_text("evaluate: [{use: fidelity, with: {datasets: [pydoc]}}]\n")
    done = hgsp("eval", MODEL, "--recipe", recipe, "--quiet", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "Error: evaluate: 'fidelity' compares a model with the dense one. Name the dense model: --dense MODEL.\n"
    )


def test_models_with_different_tokenizers_are_refused(pruned, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(pruned, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(EvaluationError, match="different tokenizers or vocabularies"):
        measured(of_texts(), MODEL, other)


def recipe_of(folder, params, **more):
    return parse_recipe(
        yaml.safe_dump(
            {
                "model": {"path": str(MODEL)},
                "calibrate": {"dataset": "pydoc", "samples": 16, "seq_len": 64},
                "score": {"use": "curvature"},
                "allocate": {"use": "hgsp", "with": {"ratio": 0.1, "temperature": 0, "epsilon": 0}},
                "evaluate": [{"use": "fidelity", "with": params}],
                "output": str(folder / "out"),
                **more,
            }
        ),
        "the recipe",
    )


def test_tasks_of_a_recipe_that_streams_are_refused_before_anything_is_measured(tmp_path, tasks, monkeypatch):
    monkeypatch.setattr("hgsp_core.allocate.run.calibrate", lambda *arguments: pytest.fail("it went on"))
    recipe = recipe_of(
        tmp_path,
        {"datasets": [], "tasks": ["choice"], "include_path": str(tasks)},
        model={"path": str(MODEL), "weights": "streamed"},
    )
    with pytest.raises(EvaluationError, match="'fidelity' needs the model in memory"):
        run(recipe, store=Store(tmp_path / "store"))


def test_a_run_shows_the_kl_divergence_beside_the_predicted_one_everywhere(tmp_path):
    report = run(
        recipe_of(tmp_path, {"datasets": ["pydoc"], "seq_len": 64, "max_windows": 24}), store=Store(tmp_path / "s")
    )
    rows = {row.measure: row for row in headline(report)}
    names = list(rows)
    place = names.index("KL to dense, predicted")
    assert names[place + 1] == "KL to dense, pydoc"
    found, predicted = report["after"]["kl_to_dense"]["pydoc"], report["predicted_kl"]
    assert rows[names[place]].after == predicted
    assert 0.5 < found / predicted < 2
    shown = rows["KL to dense, pydoc"].cells()[2]
    assert shown == f"{found:.4g} ± {report['after']['kl_to_dense_stderr']['pydoc']:.2g}"
    page, card = ((tmp_path / "out" / name).read_text() for name in ("report.html", "model/README.md"))
    assert shown in page
    assert "KL to dense, predicted" in page
    assert shown in card
    runs = comparison(load_runs([tmp_path / "out"]))
    text = markdown(runs, run_table(runs))
    header = text.splitlines()[0]
    assert header.index("predicted KL") < header.index("KL to dense, pydoc") < header.index("same top token, pydoc")
    assert shown in text


def test_the_dense_models_answers_are_found_in_the_store(tmp_path, tasks, monkeypatch):
    asked = []
    real = module.task_answers
    monkeypatch.setattr(module, "task_answers", lambda harness, job: asked.append(job) or real(harness, job))
    params = {"datasets": [], "tasks": ["choice"], "include_path": str(tasks)}
    store = Store(tmp_path / "store")
    first = run(recipe_of(tmp_path, params), store=store)
    assert len(asked) == 2
    again = run(recipe_of(tmp_path, params), store=store, output=tmp_path / "again")
    assert len(asked) == 3
    assert again["after"]["kl_of_choices"] == first["after"]["kl_of_choices"]
