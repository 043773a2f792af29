"""Tasks of the Language Model Evaluation Harness (lm-eval, EleutherAI), opened and answered in one place."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, model_validator

from hgsp_core.evaluate.contract import EvaluateJob
from hgsp_core.evaluate.errors import EvaluationError
from hgsp_core.evaluate.harness_files import require_plain, sandboxed
from hgsp_core.files.paths import expanded
from hgsp_core.plugin.method import Params

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

#: what lm-eval's command line seeds `random` with, and numpy and the choice of examples
RANDOM_SEED, SEED = 0, 1234


class TaskParams(Params):
    tasks: tuple[str, ...] = Field((), description="names of lm-eval tasks, groups or tags")
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
    def _trust_what(self) -> TaskParams:
        if self.trust_task_code and self.include_path is None:
            raise ValueError("trust_task_code requires include_path")
        return self


class Harness:
    """The tasks that an evaluator asks for, with their data. `tasks`: name -> the task or group, or a tag's tasks."""

    def __init__(self, evaluator: str, params: TaskParams):
        """Raises EvaluationError, which names the evaluator: no library, task or data, or a task twice."""
        self.evaluator, self.params = evaluator, params
        try:
            import lm_eval.tasks  # noqa: F401
        except ImportError:
            raise EvaluationError.no_library(evaluator, "lm-eval", "eval") from None
        with _as_on_the_command_line(params):
            manager = _open_manager(evaluator, params)
            self.tasks = {name: _load_task(evaluator, manager, name) for name in params.tasks}
            try:
                self.loaded = manager.load([part for parts in self.tasks.values() for part in parts])
            except ValueError as error:  # a task is there twice, perhaps in a group
                raise EvaluationError.overlap(evaluator, error) from None

    def inputs(self) -> dict[str, Any]:
        """Settings, the library's version, and a hash of each task and its documents."""
        settings = self.params.model_dump(mode="json", include={"tasks", "num_fewshot", "limit"})
        tasks = {task.task_name: _digest(task) for parts in self.tasks.values() for task in leaves(parts)}
        return {**settings, "lm_eval": version("lm_eval"), "tasks": tasks}

    def evaluate(
        self, job: EvaluateJob, resamplings: int = 0, samples: bool = False, softmax_dtype: str | None = None
    ) -> tuple[dict[str, Any], int | None]:
        """What lm-eval finds, and the token that stands before a text where the tokenizer has none for it.

        Args:
            resamplings: of the documents, for the standard error of measures that have no formula for it.
            samples: also what the model answered to each document.
            softmax_dtype: of the likelihoods; None = the model's.
        """
        from jinja2 import TemplateError
        from lm_eval.evaluator import evaluate

        from hgsp_core.evaluate.harness_model import ShownHFLM

        p = self.params
        with _as_on_the_command_line(p):
            for task in leaves(part for parts in self.tasks.values() for part in parts):
                _set_examples(task, p.num_fewshot)
            model = ShownHFLM(job, p.batch_size, softmax_dtype, self.evaluator)
            try:
                found = evaluate(model, self.loaded, limit=p.limit, bootstrap_iters=resamplings, log_samples=samples)
            except TemplateError as error:
                raise EvaluationError.template(self.evaluator, error) from error
        return found, model.stand_in


def _open_manager(evaluator: str, params: TaskParams) -> TaskManager:
    """lm-eval's list of tasks, with all that are asked for in it. Raises EvaluationError."""
    from lm_eval.tasks import TaskManager

    own = None
    if params.include_path is not None:
        own = expanded(params.include_path)
        if not own.is_dir():
            raise EvaluationError.no_task_folder(evaluator, params.include_path)
        if not params.trust_task_code:
            require_plain(evaluator, own)
    manager = TaskManager(include_path=own, include_defaults=False) if own else None
    if manager is None or not set(params.tasks) <= set(manager.all_subtasks):
        manager = TaskManager(include_path=own)  # reads its thousands of task files: seconds
    unknown = [name for name in params.tasks if name not in manager.all_tasks]
    if unknown:
        raise EvaluationError.unknown_tasks(evaluator, unknown, manager.all_tasks, params.include_path)
    return manager


def _load_task(evaluator: str, manager: TaskManager, name: str) -> list[Any]:
    """The task or group of that name, or a tag's tasks, with their data. Raises EvaluationError."""
    try:
        loaded = manager.load(name)
    except Exception as error:
        raise EvaluationError.task(evaluator, name, error) from error
    return [loaded["groups"][name]] if name in loaded["groups"] else list(loaded["tasks"].values())


def _set_examples(task: Task, number: int | None) -> None:
    """As in lm-eval's command line: `number` of examples unless the task sets 0; by default the task's own number, or 0."""
    own = task.get_config("num_fewshot")
    if own is None or (number is not None and own != 0):
        task.set_config(key="num_fewshot", value=number or 0)
    task.set_fewshot_seed(seed=SEED)


def leaves(parts: Iterable[Any]) -> Iterator[Task]:
    """lm-eval's tasks; of groups, all that are in them."""
    for part in parts:
        yield from part.get_all_tasks() if hasattr(part, "get_all_tasks") else [part]


def _digest(task: Task) -> str:
    """sha256 of a task's settings and of its documents, those that examples are drawn from included."""
    digest = hashlib.sha256(json.dumps(task.dump_config(), sort_keys=True, default=str).encode())
    for document in (*task.eval_docs, *(task.fewshot_docs() or ())):
        digest.update(json.dumps(document, sort_keys=True, default=str).encode())
    return digest.hexdigest()


@contextmanager
def _as_on_the_command_line(params: TaskParams) -> Iterator[None]:
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
