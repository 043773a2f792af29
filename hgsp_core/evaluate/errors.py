"""A measurement that cannot be made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from hgsp_core.errors import HgspError, first_line


class EvaluationError(HgspError):
    """A measurement that cannot be made."""

    @classmethod
    def twice(cls, place: str, measure: str) -> EvaluationError:
        return cls(f"{place}: '{measure}' is measured twice. Remove one, or give a dataset another name (name: ...).")

    @classmethod
    def streamed(cls, name: str | None = None) -> EvaluationError:
        named = f"'{name}'" if name else "a measurement"
        return cls(
            f"evaluate: {named} needs the model in memory, but its weights are streamed. Use model.dtype: bfloat16, a device "
            "with more memory, or model.weights: resident; or remove it here and run `hgsp eval` on the result elsewhere."
        )

    @classmethod
    def needs_dense(cls, name: str) -> EvaluationError:
        return cls(f"evaluate: '{name}' compares a model with the dense one. Name the dense model: --dense MODEL.")

    @classmethod
    def other_tokens(cls) -> EvaluationError:
        return cls(
            "evaluate: fidelity: the two models have different tokenizers or vocabularies, so their predictions cannot be "
            "compared. Give the model that the pruned one was made from as the dense model."
        )

    @classmethod
    def too_few(cls, place: str, there: int, needed: int, unit: str) -> EvaluationError:
        return cls(f"evaluate: fidelity: {place} has {there} {unit}, but at least {needed} are needed. Use more data.")

    @classmethod
    def task_kind(cls, task: str, kind: str) -> EvaluationError:
        return cls(
            f"evaluate: fidelity: tasks: '{task}' is of output_type {kind}, not multiple_choice or loglikelihood. "
            "Remove it, or measure it with lm_eval."
        )

    @classmethod
    def chat_template(cls, error: Exception) -> EvaluationError:
        return cls(f"evaluate: fidelity: the tokenizer's chat template failed: {first_line(error)}. Set prompts: 0.")

    @classmethod
    def no_library(cls, name: str, library: str, extra: str) -> EvaluationError:
        return cls(f"evaluate: '{name}' needs {library}, which is not installed: pip install 'hgsp-core[{extra}]'")

    @classmethod
    def unknown_tasks(
        cls, evaluator: str, names: Sequence[str], known: Iterable[str], include_path: str | None
    ) -> EvaluationError:
        known = sorted(known)
        nearest = {name: get_close_matches(name.lower(), known, n=3, cutoff=0.6) for name in names}
        each = "; ".join(f"'{n}'{f' (near: {chr(44).join(near)})' if near else ''}" for n, near in nearest.items())
        where = f" and in '{include_path}'" if include_path else ""
        return cls(f"evaluate: {evaluator}: tasks: lm-eval{where} has no {each}. All names: lm-eval ls tasks")

    @classmethod
    def no_task_folder(cls, evaluator: str, path: str) -> EvaluationError:
        return cls(
            f"evaluate: {evaluator}: include_path: there is no directory '{path}'. Give the directory with the tasks' YAML files."
        )

    @classmethod
    def task_code(cls, evaluator: str, path: Path, code: str) -> EvaluationError:
        return cls(
            f"evaluate: {evaluator}: include_path: '{path}' references code: {code}. It is not run. If you trust it, set "
            "trust_task_code: true next to include_path; otherwise remove it from the file, or the file from the directory."
        )

    @classmethod
    def template(cls, evaluator: str, error: Exception) -> EvaluationError:
        return cls(
            f"evaluate: {evaluator}: a task template failed: {error}. Fix the task's YAML file, or remove the task."
        )

    @classmethod
    def task(cls, evaluator: str, name: str, error: Exception) -> EvaluationError:
        return cls(
            f"evaluate: {evaluator}: the task '{name}' cannot be prepared: {first_line(error)}\n"
            "Check the network (HF_HUB_OFFLINE) and the data that its YAML file names, or remove the task."
        )

    @classmethod
    def overlap(cls, evaluator: str, error: Exception) -> EvaluationError:
        return cls(f"evaluate: {evaluator}: tasks: {error}. Remove one of the two.")
