"""How far the pruned model's predictions are from the dense model's: both read the same texts and answer the same questions.

Differences are paired: of each window, question or prompt, then mean and standard error over them. The standard error is the
standard deviation (n - 1) divided by √n. Likelihoods are of fp32 logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from hgsp_core.engine.loss import CHUNK_BYTES
from hgsp_core.engine.parallel import of_all
from hgsp_core.errors import NumericError
from hgsp_core.evaluate.contract import EvaluateJob, PairEvaluator
from hgsp_core.evaluate.errors import EvaluationError
from hgsp_core.evaluate.fidelity_params import FidelityParams
from hgsp_core.evaluate.greedy import TOKENS, greedy_answer, prompts_of
from hgsp_core.evaluate.harness_tasks import Harness, leaves
from hgsp_core.evaluate.texts import Text, open_texts

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

#: kinds of lm-eval tasks that can be compared
KINDS = ("multiple_choice", "loglikelihood")
#: what a standard error needs
LEAST = 2


class Measured:
    """Metrics of the dense and of the pruned model, filled name by name."""

    def __init__(self) -> None:
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}

    def put(self, metric: str, name: str, before: float, after: float) -> None:
        self.before.setdefault(metric, {})[name] = before
        self.after.setdefault(metric, {})[name] = after

    def mean(self, metric: str, name: str, values: Sequence[float] | np.ndarray, itself: float = 0.0) -> None:
        """Mean and standard error of what was found between the two models; `itself`: between the dense model and itself."""
        mean, error = mean_and_error(values)
        self.put(metric, name, itself, mean)
        self.after.setdefault(f"{metric}_stderr", {})[name] = error

    def told(self, metric: str, name: str, protocol: Mapping[str, Any]) -> None:
        for side in (self.before, self.after):
            side.setdefault(f"{metric}_protocol", {})[name] = protocol


class Fidelity(PairEvaluator[FidelityParams]):
    """Measures how far the pruned model's predictions are from the dense model's.

    Formula: KL(p ‖ q) = Σ p · (ln p - ln q), p of the dense and q of the pruned model: over the vocabulary for texts, over the
        choices for questions.
    Cost: one forward of both models over the windows, and over each choice of each question; the dense model's answers are
        kept in the store.
    When: methods are compared: these measures tell models apart that have the same accuracy on a few hundred questions.
    Notes: Texts also work with streamed weights. `tasks` and `prompts` need resident weights; `tasks` needs
        `pip install 'hgsp-core[eval]'`.
    """

    needs_dense = True

    def __init__(self, params: FidelityParams):
        super().__init__(params)
        self.whole_model = bool(params.tasks or params.prompts)
        self.texts = open_texts(params.datasets, params.seq_len, params.seq_len, params.max_windows, "fidelity")
        self.harness = Harness("fidelity", params) if params.tasks else None
        if self.harness:
            _require_questions(self.harness)
        labels = [text.label for text in self.texts]
        greedy = [f"same_greedy_answer, {label}" for label in labels if params.prompts]
        self.measures = [
            *(f"kl_to_dense, {label}" for label in labels),
            *(f"answers, {t}" for t in params.tasks),
            *greedy,
        ]

    def check_tokens(self, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
        """Raises DataError or EvaluationError where a text is too short, or has a token without a row in the embedding."""
        for text in self.texts:
            self._windows(text, tokenizer, rows)
            if self.params.prompts:
                prompts_of(text, tokenizer, rows, self.params.prompts)

    def __call__(self, job: EvaluateJob) -> dict[str, Any]:
        raise EvaluationError.needs_dense("fidelity")

    def compare(self, dense: EvaluateJob, pruned: EvaluateJob) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.apart(lambda: dense, lambda: pruned)

    def apart(
        self, dense: Callable[[], EvaluateJob], pruned: Callable[[], EvaluateJob]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Answers are those of one model at a time; over texts one of the two may be streamed."""
        found = Measured()
        theirs = self._answers(dense()) if self.whole_model else {}
        second = pruned()
        ours = self._answers(second) if self.whole_model else {}
        if self.texts:
            self._compare_texts(dense(), second, found)
        for name in self.params.tasks:
            _compare_answers(name, theirs["tasks"][name], ours["tasks"][name], found)
            found.told("answers", name, ours["tasks"][name]["protocol"])
        for text in self.texts if self.params.prompts else ():
            _compare_greedy(text.label, theirs["greedy"][text.label], ours["greedy"][text.label], found)
        return found.before, found.after

    def _compare_texts(self, dense: EvaluateJob, pruned: EvaluateJob, found: Measured) -> None:
        if dense.rows != pruned.rows or dense.tokenizer.get_vocab() != pruned.tokenizer.get_vocab():
            raise EvaluationError.other_tokens()
        for text in self.texts:
            cut = self._windows(text, dense.tokenizer, dense.rows)
            kl, same = self._of_windows(cut, dense, pruned)
            found.mean("kl_to_dense", text.label, kl)
            found.mean("same_top_token", text.label, same, itself=1.0)
            found.told("kl_to_dense", text.label, text.protocol(cut))

    def _of_windows(self, cut: np.ndarray, dense: EvaluateJob, pruned: EvaluateJob) -> np.ndarray:
        """[2, windows]: KL and share of equal most likely tokens, means over the positions that predict a token."""
        size, own = self.params.batch_size, list[Tensor]()
        for p, q in zip(dense.logits(cut, size), pruned.logits(cut, size), strict=True):
            own.append(divergence(p[:-1], q[:-1]))
            pruned.progress(len(own), len(cut))
        both = of_all(torch.stack(own)).T
        if not both.isfinite().all():
            raise NumericError.evaluation(both.sum().item(), "the model's dtype")
        return both.cpu().numpy()

    def _windows(self, text: Text, tokenizer: PreTrainedTokenizerBase, rows: int | None) -> np.ndarray:
        cut = text.windows(tokenizer, rows)
        if len(cut) < LEAST:
            raise EvaluationError.too_few(f"'{text.label}'", len(cut), LEAST, f"windows of {text.seq_len} tokens")
        return cut

    def _answers(self, job: EvaluateJob) -> dict[str, Any]:
        """What one model answers to tasks and prompts, as plain data."""
        if job.model is None:
            raise EvaluationError.streamed("fidelity")
        found: dict[str, Any] = {}
        if harness := self.harness:
            asked = {"evaluator": f"{__name__}:tasks", **harness.inputs()}
            found["tasks"] = job.once(asked, lambda: task_answers(harness, job))
        if self.params.prompts:
            prompts = {t.label: prompts_of(t, job.tokenizer, job.rows, self.params.prompts) for t in self.texts}
            found["greedy"] = job.once(
                {"evaluator": f"{__name__}:greedy", "prompts": prompts, "tokens": TOKENS},
                lambda: {name: [greedy_answer(job, ids) for ids in asked] for name, asked in prompts.items()},
            )
        return found


@torch.no_grad()
def divergence(dense: Tensor, pruned: Tensor) -> Tensor:
    """[2] fp64 of logits [positions, vocabulary]: mean KL, and the share of positions with the same most likely token."""
    if dense.shape != pruned.shape:
        raise EvaluationError.other_tokens()
    length = max(1, CHUNK_BYTES // (4 * dense.shape[-1]))
    total = torch.zeros(2, dtype=torch.float64, device=dense.device)
    for a, b in zip(dense.split(length), pruned.split(length), strict=True):
        p, q = log_softmax(a.float(), -1), log_softmax(b.float(), -1)
        total[0] += kl_div(q, p, log_target=True, reduction="none").sum(-1).double().sum()
        total[1] += (p.argmax(-1) == q.argmax(-1)).sum()
    return total / len(dense)


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The mean, and its standard error."""
    x = np.asarray(values, dtype=np.float64)
    return float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x)))


def task_answers(harness: Harness, job: EvaluateJob) -> dict[str, Any]:
    """task -> log likelihoods of each question's choices, or of its target, and whether the answer is right; as plain data."""
    found, stand_in = harness.evaluate(job, samples=True, softmax_dtype="float32")
    answers: dict[str, Any] = {}
    for name, parts in harness.tasks.items():
        choices: list[list[float]] = []
        targets: list[float] = []
        right: list[float] = []
        tasks = list(leaves(parts))
        for task in tasks:
            for sample in _first_filter(found["samples"][task.task_name]):
                likelihoods = [float(likelihood) for likelihood, _ in sample["filtered_resps"]]
                if task.OUTPUT_TYPE == "multiple_choice":  # the unconditional likelihoods of acc_mutual_info follow
                    choices.append(likelihoods[: len(task.doc_to_choice(sample["doc"]))])
                else:
                    targets.append(likelihoods[0])
                right += [float(sample["acc"])] if "acc" in sample else []
        protocol = {
            "num_fewshot": found["n-shot"].get(tasks[0].task_name),
            "documents": len(choices) + len(targets),
            "version": found["versions"].get(tasks[0].task_name),
        }
        if stand_in is not None:
            protocol["first_token"] = stand_in
        answers[name] = {"choices": choices, "targets": targets, "right": right, "protocol": protocol}
    return answers


def _first_filter(samples: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """One sample a document, in their order."""
    mine = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    yield from sorted(mine, key=lambda sample: sample["doc_id"])


def _compare_answers(name: str, dense: Mapping[str, Any], pruned: Mapping[str, Any], found: Measured) -> None:
    if dense["choices"]:
        found.mean("kl_of_choices", name, list(map(choices_kl, dense["choices"], pruned["choices"])))
    if dense["targets"]:
        before, after = -np.array(dense["targets"]), -np.array(pruned["targets"])
        found.put("target_nats", name, float(before.mean()), float(after.mean()))
        found.mean("target_nats_change", name, after - before)
    if dense["right"]:
        before, after = np.array(dense["right"]), np.array(pruned["right"])
        found.put("answer_accuracy", name, float(before.mean()), float(after.mean()))
        found.mean("answer_accuracy_change", name, after - before)


def choices_kl(dense: Sequence[float], pruned: Sequence[float]) -> float:
    """KL of the distributions over a question's choices that their log likelihoods give."""
    p, q = (torch.tensor(values, dtype=torch.float64).log_softmax(0) for values in (dense, pruned))
    return float((p.exp() * (p - q)).sum())


def _compare_greedy(
    name: str, dense: Sequence[Sequence[int]], pruned: Sequence[Sequence[int]], found: Measured
) -> None:
    pairs = list(zip(dense, pruned, strict=True))
    common = [
        next((i for i, (a, b) in enumerate(zip(p, q, strict=False)) if a != b), min(len(p), len(q))) for p, q in pairs
    ]
    found.mean("same_greedy_answer", name, [float(p == q) for p, q in pairs], itself=1.0)
    found.mean("same_greedy_tokens", name, common, itself=float(np.mean([len(p) for p in dense])))
    found.told("same_greedy_answer", name, {"prompts": len(pairs), "tokens": TOKENS})


def _require_questions(harness: Harness) -> None:
    """Raises EvaluationError where a task cannot be compared, or has too few questions for a standard error."""
    for name, parts in harness.tasks.items():
        questions = 0
        for task in leaves(parts):
            if task.OUTPUT_TYPE not in KINDS:
                raise EvaluationError.task_kind(task.task_name, task.OUTPUT_TYPE)
            questions += min(len(task.eval_docs), harness.params.limit or len(task.eval_docs))
        if questions < LEAST:
            raise EvaluationError.too_few(f"the task '{name}'", questions, LEAST, "questions")
