"""The model card: README.md of a pruned checkpoint, with the front matter that the hub reads.

It states only facts of this checkpoint: loading follows from config.json, the table from the run's report, the licence from
the original's card. Format: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from hgsp_core.artifacts import Plan
from hgsp_core.checkpoint.read import LICENCE_FILES
from hgsp_core.files.paths import TEXT_FILES, is_hub_id
from hgsp_core.files.text import read_text
from hgsp_core.files.yaml_data import parse_yaml
from hgsp_core.model.layout import LayerLayout, Layout
from hgsp_core.report import markdown as md
from hgsp_core.report.render import render
from hgsp_core.report.tables import HEADER, headline
from hgsp_core.report.texts import UNSEEN, unseen

CARD = "README.md"
#: front matter that is also true of the pruned model
_CARRIED = ("license", "license_name", "license_link", "language")


def model_card(
    directory: Path,
    config: Mapping[str, Any],
    layout: Layout,
    plan: Plan,
    report: Mapping[str, Any],
    base: Path | None,
    gguf: bool,
) -> str:
    """The text of README.md.

    Args:
        directory: the checkpoint, for its name and its licence files.
        config: its config.json.
        layout: its layout; `plan`: what made it of the original.
        report: of the run, as in report.json: recipe, before, after, calibration.
        base: the directory of the original, or None.
        gguf: whether the gguf exporter takes it.
    """
    recipe, original = report["recipe"], original_card(base)
    told = {key: recipe[key] for key in recipe if key not in ("output", "device", "memory", "export") and recipe[key]}
    return render(
        "hgsp_core.export",
        "card.md",
        front=_yaml(_front_matter(directory, config, recipe, original)),
        name=base_name(recipe, base),
        results=_results(report),
        unseen=f"{UNSEEN}." if unseen(report) else "",
        report=report,
        without_folder=_without_folder,
        recipe=_yaml(_without_folders(told)),
        plan=plan,
        layers=len(layout.layers),
        sizes=_sizes(layout, plan),
        own_code="auto_map" in config,
        model_type=config["model_type"],
        linears=sorted({s.module.rsplit(".", 1)[1] for block in layout.blocks() for s in block.linears}),
        gguf=gguf,
        licence=str(original.get("license_name") or original.get("license") or ""),
        licence_files=_licence_files(directory),
    )


def base_name(recipe: Mapping[str, Any], base: Path | None) -> str:
    """Name of the original: its hub id, or the name of its directory; "" = not known."""
    path = recipe.get("model", {}).get("path", "")
    return path if _is_hub_id(path) else Path(path).name or (base.resolve().name if base else "")


def original_card(base: Path | None) -> Mapping[str, Any]:
    """The front matter of the original's README.md; empty where there is none that can be read."""
    try:
        card = read_text(base / CARD) if base else ""
        parts = re.split(r"^---\s*$", card, maxsplit=2, flags=re.MULTILINE)
        content = parse_yaml(parts[1]) if len(parts) == 3 and not parts[0].strip() else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_hub_id(path: str) -> bool:
    return is_hub_id(path) and Path(path).suffix not in TEXT_FILES  # no hub id ends like a file of text


def _front_matter(
    directory: Path, config: Mapping[str, Any], recipe: Mapping[str, Any], original: Mapping[str, Any]
) -> dict[str, Any]:
    path = recipe.get("model", {}).get("path", "")
    carried = {key: original[key] for key in _CARRIED if key in original}
    if "license" not in carried and (files := _licence_files(directory)):
        carried = {"license": "other", "license_name": "of-the-base-model", "license_link": files[0], **carried}
    return {
        **({"base_model": path} if _is_hub_id(path) else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **carried,
        "tags": ["pruned", "structured-pruning", "hgsp", *(["custom_code"] if "auto_map" in config else [])],
    }


def _results(report: Mapping[str, Any]) -> str:
    rows = []
    for row in headline(report):
        metric, comma, name = row.measure.partition(", ")
        mark = " *" if row.unseen else ""
        rows.append((md.text(f"{metric}{comma}{_without_folder(name)}{mark}"), *map(md.text, row.cells()[1:])))
    return _table(HEADER, rows)


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _without_folders(value: Any) -> Any:
    """A part of the recipe without local paths."""
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(item) for item in value]
    return _without_folder(value) if isinstance(value, str) else value


def _without_folder(name: str) -> str:
    """The last part of a local path; hub ids, methods of a distribution and other texts are unchanged."""
    words = any(map(str.isspace, name)) and not name.startswith(("/", "~", "."))
    return name if "/" not in name or _is_hub_id(name) or (words and not os.path.exists(name)) else Path(name).name


def _sizes(layout: Layout, plan: Plan) -> str:
    """One line a run of equal layers."""
    sizes = [_layer_sizes(layout, layer) for layer in layout.layers]
    keys = [key for axis in layout.architecture.axes for key in (*axis.scales, axis.units)]
    kept = plan.kept_layers()
    rows = []
    for size, group in groupby(range(len(sizes)), key=lambda i: tuple(sizes[i].get(key, "removed") for key in keys)):
        indices = list(group)
        rows.append((_span(indices), _span([kept[i] for i in indices]), *map(str, size)))
    return _table(("layers", "of the original", *map(md.code, keys)), rows)


def _layer_sizes(layout: Layout, layer: LayerLayout) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for block in layer.blocks.values():
        sizes |= {key: block.units * block.heads for key in block.axis.scales} | {block.axis.units: block.units}
    return sizes


def _span(indices: Sequence[int]) -> str:
    """0, 1, 2, 5 -> 0-2, 5."""
    runs = [[i for _, i in run] for _, run in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _licence_files(directory: Path) -> list[str]:
    return sorted(path.name for pattern in LICENCE_FILES for path in directory.glob(pattern))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column names the rows; the others are numbers."""
    return md.table(header, rows, [bool(i) for i in range(len(header))])
