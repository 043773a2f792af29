"""Question sets as lm-eval task files, from JSON lines: what `fidelity` asks both models.

Choices are `query`, `choices` and `gold` (arc_easy, boolq, piqa), or `context_options`, `continuation` and `gold`
(winogrande); a last word to tell (lambada_openai) is `context` and `continuation`.
"""

from __future__ import annotations

import json
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
BEGINNINGS = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{gold}}",
    "doc_to_choice": "{{context_options}}",
    "doc_to_target": "{{continuation}}",
    "metric_list": [{"metric": "acc"}],
}
LAST_WORD = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{context}}",
    "doc_to_target": " {{continuation.strip()}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}


def write_tasks(data: Path, folder: Path) -> list[str]:
    """A task file in `folder` for each question set of `data`; their names."""
    names = []
    for file in sorted(data.glob("*.jsonl")):
        name = f"{file.stem}_local"
        questions = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}}
        task = questions | {"test_split": "test"} | kind_of(file)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        names.append(name)
    return names


def kind_of(file: Path) -> dict[str, Any]:
    """The form of a file's questions, by the keys of its first one."""
    with file.open(encoding="utf-8") as lines:
        keys = json.loads(next(lines)).keys()
    return CHOICES if "choices" in keys else BEGINNINGS if "context_options" in keys else LAST_WORD
