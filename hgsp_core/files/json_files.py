"""Results as JSON, for programs and people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hgsp_core.files.text import write_text


def finite(value: Any) -> Any:
    """The value with infinities as text: JSON has none (`tau: .inf`, the perplexity of a broken model)."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """One line for each top-level entry and each item of its lists, to read and to diff."""
    lines = []
    for key, value in finite(content).items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in value) + "\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
