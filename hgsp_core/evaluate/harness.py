"""Accuracy on question sets, by the Language Model Evaluation Harness (lm-eval, EleutherAI) on the model in memory.

A task's accuracy is the share of its documents that the model answers rightly: of a choice of answers, the one it gives the
highest likelihood (`acc`), or the highest likelihood per byte (`acc_norm`). Which of the two counts is decided by task as in
LLM-Pruner (Ma et al. 2023, table 1) and the papers that compare with it; both are in the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from hgsp_core.evaluate.contract import EvaluateJob, Evaluator
from hgsp_core.evaluate.harness_tasks import Harness, TaskParams, leaves

#: the zero-shot tasks of LLM-Pruner, SlimGPT, FLAP and others
TASKS = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
#: tasks whose accuracy is reported normalised by the length of the answers
NORMALISED = ("hellaswag", "arc_challenge", "openbookqa")
#: what may be called an accuracy, the first one that a task gives
ACCURACIES = ("acc", "exact_match", "acc_norm")
#: resamplings of the documents for the standard error of measures that have no formula for it
RESAMPLINGS = 1000


class LmEvalParams(TaskParams):
    tasks: tuple[str, ...] = Field(TASKS, min_length=1, description="names of lm-eval tasks, groups or tags")


class LmEval(Evaluator[LmEvalParams]):
    """Measures accuracy on tasks of the Language Model Evaluation Harness.

    Source: lm-eval's own `HFLM`, on the model in memory.
    Cost: one forward for each answer choice of each document of the tasks; more for tasks that generate text.
    When: perplexity does not tell enough. Needs resident weights and `pip install 'hgsp-core[eval]'`.
    """

    whole_model = True

    def __init__(self, params: LmEvalParams):
        super().__init__(params)
        self.harness = Harness("lm_eval", params)
        self.measures = [f"accuracy, {name}" for name in params.tasks]

    def inputs(self) -> dict[str, Any]:
        """Settings, the library's version, and a hash of each task and its documents."""
        return self.harness.inputs()

    def __call__(self, job: EvaluateJob) -> dict[str, dict[str, Any]]:
        found, stand_in = self.harness.evaluate(job, RESAMPLINGS)
        names = [name for asked, parts in self.harness.tasks.items() for name in _reported(asked, parts, found)]
        result = _result(found, names)
        if stand_in is not None:
            for protocol in result["accuracy_protocol"].values():
                protocol["first_token"] = stand_in
        return result


def _reported(asked: str, parts: list[Any], found: Mapping[str, Any]) -> list[str]:
    """Names in the result for `asked`: itself, or the tasks of a tag or of a group without numbers."""
    if _measures(found["results"].get(asked, {})):
        return [asked]
    return [task.task_name for task in leaves(parts)]


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
