"""Greedy answers to prompts: the most likely token, again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hgsp_core.checkpoint.modeling_hgsp import CACHE
from hgsp_core.data.contract import DatasetJob
from hgsp_core.data.run import require_rows
from hgsp_core.evaluate.contract import EvaluateJob
from hgsp_core.evaluate.errors import EvaluationError
from hgsp_core.evaluate.texts import Text

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

#: tokens of an answer, unless the text ends before
TOKENS = 16


def prompts_of(text: Text, tokenizer: PreTrainedTokenizerBase, rows: int | None, number: int) -> list[list[int]]:
    """Token ids of the first instructions of a dataset, as a chat where the tokenizer has a template; or of its first windows.

    Raises:
        EvaluationError: fewer than `number`, or the template fails; DataError: a token without a row in the embedding.
    """
    records = list(islice(text.dataset.rows(DatasetJob("evaluation")) or (), number))
    if records and all(isinstance(record.get("instruction"), str) for record in records):
        prompts = [_instruction(record, tokenizer) for record in records]
        for ids in prompts:
            require_rows(np.array(ids), rows, tokenizer, text.use.use)
        unit = "instructions"
    else:
        prompts = replace(text, max_windows=number).windows(tokenizer, rows).tolist()
        unit = f"windows of {text.seq_len} tokens"
    if len(prompts) < max(number, 2):
        raise EvaluationError.too_few(f"'{text.label}'", len(prompts), max(number, 2), f"{unit} for prompts")
    return prompts


def _instruction(record: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    asked = "\n\n".join(filter(None, (record["instruction"], record.get("input"))))
    if not tokenizer.chat_template:
        return tokenizer(asked, verbose=False)["input_ids"]
    from jinja2 import TemplateError

    try:
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ValueError) as error:
        raise EvaluationError.chat_template(error) from error
    return tokenizer(chat, add_special_tokens=False, verbose=False)["input_ids"]


@torch.no_grad()
def greedy_answer(job: EvaluateJob, prompt: Sequence[int]) -> list[int]:
    """The first TOKENS most likely tokens after the prompt, up to the one that ends a text."""
    model, end, answer = job.loaded, job.tokenizer.eos_token_id, list[int]()
    ids = torch.tensor([prompt], device=model.device)
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    while True:
        token = output.logits[:, -1:].argmax(-1)
        answer.append(int(token))
        if len(answer) == TOKENS or answer[-1] == end:
            return answer
        output = model(input_ids=token, **{CACHE: getattr(output, CACHE)}, use_cache=True, logits_to_keep=1)
