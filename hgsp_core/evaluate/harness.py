"""Accuracy on question sets, by the Language Model Evaluation Harness (lm-eval, EleutherAI) on the model in memory.

A task's accuracy is the share of its documents that the model answers rightly: of a choice of answers, the one it gives the
highest likelihood (`acc`), or the highest likelihood per byte (`acc_norm`). Which of the two counts is decided by task as in
LLM-Pruner (Ma et al. 2023, table 1) and the papers that compare with it; both are in the result.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from hgsp_core.evaluate.contract import EvaluateJob, Evaluator
from hgsp_core.evaluate.errors import EvaluationError
from hgsp_core.evaluate.harness_files import require_plain, sandboxed
from hgsp_core.files.paths import expanded
from hgsp_core.plugin.method import Params

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

#: the zero-shot tasks of LLM-Pruner, SlimGPT, FLAP and others
TASKS = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
#: tasks whose accuracy is reported normalised by the length of the answers
NORMALISED = ("hellaswag", "arc_challenge", "openbookqa")
#: what may be called an accuracy, the first one that a task gives
ACCURACIES = ("acc", "exact_match", "acc_norm")
#: what lm-eval's command line seeds `random` with, and numpy and the choice of examples
RANDOM_SEED, SEED = 0, 1234
#: resamplings of the documents for the standard error of measures that have no formula for it
RESAMPLINGS = 1000


class LmEvalParams(Params):
    tasks: tuple[str, ...] = Field(TASKS, min_length=1, description="names of lm-eval tasks, groups or tags")
    num_fewshot: int | None = Field(
        None, ge=0, description="solved examples before each question; null = the task's own number, usually 0"
    )
    limit: int | None = Field(None, ge=1, description="number of documents per task, from the first; null = all")
    batch_size: int = Field(8, ge=1, description="requests per batch; affects cost, not the result")
    include_path: str | None = Field(None, min_length=1, description="directory with YAML files of custom tasks")
    trust_task_code: bool = Field(
        False, description="true = run the Python code that these files name (!function, class, custom metrics)"
    )

    @model_validator(mode="after")
    def _trust_what(self) -> LmEvalParams:
        if self.trust_task_code and self.include_path is None:
            raise ValueError("trust_task_code requires include_path")
        return self


class LmEval(Evaluator[LmEvalParams]):
    """Measures accuracy on tasks of the Language Model Evaluation Harness.

    Source: lm-eval's own `HFLM`, on the model in memory.
    Cost: one forward for each answer choice of each document of the tasks; more for tasks that generate text.
    When: perplexity does not tell enough. Needs resident weights and `pip install 'hgsp-core[eval]'`.
    """

    whole_model = True

    def __init__(self, params: LmEvalParams):
        super().__init__(params)
        try:
            import lm_eval.tasks  # noqa: F401
        except ImportError:
            raise EvaluationError.no_library("lm_eval", "lm-eval", "eval") from None
        with _as_on_the_command_line(params):
            manager = _open_manager(params)
            self.tasks = {name: _load_task(manager, name) for name in params.tasks}
            try:
                self.loaded = manager.load([part for parts in self.tasks.values() for part in parts])
            except ValueError as error:  # a task is there twice, perhaps in a group
                raise EvaluationError.overlap(error) from None
        self.measures = [f"accuracy, {name}" for name in params.tasks]

    def inputs(self) -> dict[str, Any]:
        """Settings, the library's version, and a hash of each task and its documents."""
        params = self.params.model_dump(mode="json", exclude={"batch_size", "include_path", "trust_task_code"})
        tasks = {task.task_name: _digest(task) for parts in self.tasks.values() for task in _leaves(parts)}
        return {**params, "lm_eval": version("lm_eval"), "tasks": tasks}

    def __call__(self, job: EvaluateJob) -> dict[str, dict[str, Any]]:
        from jinja2 import TemplateError
        from lm_eval.evaluator import evaluate

        from hgsp_core.evaluate.harness_model import ShownHFLM

        p = self.params
        with _as_on_the_command_line(p):
            for task in _leaves(part for parts in self.tasks.values() for part in parts):
                _set_examples(task, p.num_fewshot)
            model = ShownHFLM(job, p.batch_size)
            try:
                found = evaluate(model, self.loaded, limit=p.limit, bootstrap_iters=RESAMPLINGS, log_samples=False)
            except TemplateError as error:
                raise EvaluationError.template(error) from error
        names = [name for asked in self.tasks for name in _reported(asked, self.tasks[asked], found)]
        result = _result(found, names)
        if model.stand_in is not None:
            for protocol in result["accuracy_protocol"].values():
                protocol["first_token"] = model.stand_in
        return result


def _open_manager(params: LmEvalParams) -> TaskManager:
    """lm-eval's list of tasks, with all that are asked for in it. Raises EvaluationError."""
    from lm_eval.tasks import TaskManager

    own = None
    if params.include_path is not None:
        own = expanded(params.include_path)
        if not own.is_dir():
            raise EvaluationError.no_task_folder(params.include_path)
        if not params.trust_task_code:
            require_plain(own)
    manager = TaskManager(include_path=own, include_defaults=False) if own else None
    if manager is None or not set(params.tasks) <= set(manager.all_subtasks):
        manager = TaskManager(include_path=own)  # reads its thousands of task files: seconds
    unknown = [name for name in params.tasks if name not in manager.all_tasks]
    if unknown:
        raise EvaluationError.unknown_tasks(unknown, manager.all_tasks, params.include_path)
    return manager


def _load_task(manager: TaskManager, name: str) -> list[Any]:
    """The task or group of that name, or a tag's tasks, with their data. Raises EvaluationError."""
    try:
        loaded = manager.load(name)
    except Exception as error:
        raise EvaluationError.task(name, error) from error
    return [loaded["groups"][name]] if name in loaded["groups"] else list(loaded["tasks"].values())


def _set_examples(task: Task, number: int | None) -> None:
    """As in lm-eval's command line: `number` of examples unless the task sets 0; by default the task's own number, or 0."""
    own = task.get_config("num_fewshot")
    if own is None or (number is not None and own != 0):
        task.set_config(key="num_fewshot", value=number or 0)
    task.set_fewshot_seed(seed=SEED)


def _reported(asked: str, parts: list[Any], found: Mapping[str, Any]) -> list[str]:
    """Names in the result for `asked`: itself, or the tasks of a tag or of a group without numbers."""
    if _measures(found["results"].get(asked, {})):
        return [asked]
    return [task.task_name for task in _leaves(parts)]


def _leaves(parts: Iterable[Any]) -> Iterator[Task]:
    """lm-eval's tasks; of groups, all that are in them."""
    for part in parts:
        yield from part.get_all_tasks() if hasattr(part, "get_all_tasks") else [part]


def _digest(task: Task) -> str:
    """sha256 of a task's settings and of its documents, those that examples are drawn from included."""
    digest = hashlib.sha256(json.dumps(task.dump_config(), sort_keys=True, default=str).encode())
    for document in (*task.eval_docs, *(task.fewshot_docs() or ())):
        digest.update(json.dumps(document, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _measures(result: Mapping[str, Any]) -> dict[str, float]:
    """{"acc": 0.5, "acc_stderr": 0.1} of lm-eval's {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": ...}; the first filter's."""
    measures: dict[str, float] = {}
    for key, value in result.items():
        name, comma, _ = key.partition(",")
        if comma and isinstance(value, (int, float)):
            measures.setdefault(name, float(value))
    return measures


def _result(found: Mapping[str, Any], names: list[str]) -> dict[str, dict[str, Any]]:
    accuracy: dict[str, float] = {}
    others: dict[str, float] = {}
    details: dict[str, dict[str, float]] = {}
    protocol: dict[str, dict[str, Any]] = {}
    for name in names:
        measures = _measures(found["results"][name])
        order = ("acc_norm", *ACCURACIES) if name in NORMALISED else ACCURACIES
        metric = next((m for m in order if m in measures), None)
        if metric:
            accuracy[name] = measures[metric]
        else:
            others |= {f"{name}, {m}": value for m, value in measures.items() if not m.endswith("_stderr")}
        details[name] = measures
        protocol[name] = {
            "metric": metric,
            "num_fewshot": found["n-shot"].get(name),
            "documents": found["n-samples"].get(name, {}).get("effective"),
            "version": found["versions"].get(name),
        }
    if len(accuracy) > 1:
        accuracy[f"mean of {len(accuracy)} tasks"] = sum(accuracy.values()) / len(accuracy)
    result: dict[str, dict[str, Any]] = {"accuracy": accuracy, "lm_eval": others, "lm_eval_details": details}
    return {metric: values for metric, values in (result | {"accuracy_protocol": protocol}).items() if values}


@contextmanager
def _as_on_the_command_line(params: LmEvalParams) -> Iterator[None]:
    """In the block: the seeds of lm-eval's command line, no warnings, and task templates in a sandbox.

    Some tasks draw numbers while they make their questions. What a user must know of the warnings is in the result.
    """
    logger = logging.getLogger("lm_eval")
    level, states = logger.level, (random.getstate(), np.random.get_state())
    logger.setLevel(logging.ERROR)
    random.seed(RANDOM_SEED)
    np.random.seed(SEED)
    try:
        with sandboxed() if params.include_path and not params.trust_task_code else nullcontext():
            yield
    finally:
        logger.setLevel(level)
        random.setstate(states[0])
        np.random.set_state(states[1])
