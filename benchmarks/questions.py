"""Question sets as lm-eval task files, from JSON lines: what `fidelity` asks both models.

Choices are `query`, `choices` and `gold` (arc_easy, boolq, piqa), or `context_options`, `continuation` and `gold`
(winogrande); a last word to tell (lambada_openai) is `context` and `continuation`.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{query.strip()}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": "acc"}],
}
#: the choice is the beginning, and the end is the same
BEGINNINGS = CHOICES | {
    "doc_to_text": "{{gold}}",
    "doc_to_choice": "{{context_options}}",
    "doc_to_target": "{{continuation}}",
}
LAST_WORD = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{context}}",
    "doc_to_target": " {{continuation.strip()}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}


def write_tasks(data: Path, folder: Path, questions: int, words: int) -> list[str]:
    """A task file in `folder` for each question set of `data`, with its first questions beside it; their names.

    Args:
        questions: of each set of choices.
        words: of a set of last words.
    """
    names = []
    for file in sorted(data.glob("*.jsonl")):
        kind, name = kind_of(file), f"{file.stem}_local"
        asked = folder / f"{name}.jsonl"
        with file.open(encoding="utf-8") as lines:
            asked.write_text("".join(islice(lines, words if kind is LAST_WORD else questions)), encoding="utf-8")
        task = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(asked)}}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**task, "test_split": "test", **kind}), encoding="utf-8")
        names.append(name)
    return names


def kind_of(file: Path) -> dict[str, Any]:
    """The form of a file's questions, by the keys of its first one."""
    with file.open(encoding="utf-8") as lines:
        keys = json.loads(next(lines)).keys()
    return CHOICES if "choices" in keys else BEGINNINGS if "context_options" in keys else LAST_WORD
