"""Task files for lm-eval, and their questions as JSON lines."""

import json
from pathlib import Path

import yaml

_ASKED = {"test_split": "test", "doc_to_text": "{{question}}"}
CHOICE = _ASKED | {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}
LAST_WORD = _ASKED | {
    "output_type": "loglikelihood",
    "doc_to_target": "{{choices[gold]}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
}
GENERATE = _ASKED | {
    "output_type": "generate_until",
    "doc_to_target": "{{choices[gold]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
    "metric_list": [{"metric": "exact_match"}],
}


def write_questions(path: Path, questions) -> Path:
    """(question, choices, number of the right one) as JSON lines."""
    rows = [{"question": question, "choices": choices, "gold": gold} for question, choices, gold in questions]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def write_task(folder: Path, name: str, data: Path, form=CHOICE, **settings) -> None:
    """The task `name` in a file of that name; `settings` replace those of the form."""
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **source, **form, **settings}))
