"""Tables of what `quality.py` found.

    python benchmarks/tables.py rows.json [more-rows.json ...]

Three kinds: the default against the best published method; what each part of it contributes; every method on every model.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from math import exp, log
from pathlib import Path
from typing import Any

Row = dict[str, Any]

DENSE = "dense"
DEFAULT = "balanced"
#: published methods
BASELINES = ("magnitude", "wanda", "wanda-sp", "llm_pruner", "flap", "slimgpt", "shortgpt", "torch_pruning")
#: a method competes for the best of a column if it removes this share, or more, of what it was asked for
REACHED = 0.97
#: what is looked at -> the method without it, the same with it
PARTS = {
    "H-GSP's gate, prior `removal`": ("hgsp, T = 0", "hgsp, removal"),
    "H-GSP's gate, prior `similarity`": ("hgsp, T = 0", "hgsp, similarity"),
    "the `log` normalizer": ("hgsp, removal", "hgsp, removal + log"),
    "query heads, no repair": ("hgsp, T = 0", "hgsp, T = 0, query heads"),
    "least squares on the plan of one knapsack": (
        "hgsp, T = 0, query heads",
        "hgsp, T = 0, query heads + least-squares",
    ),
    "least squares on a plan by curvature": ("curvature", "balanced"),
    "… with readers refitted as well": ("curvature + least-squares, writers only", "balanced"),
    "… with units reselected": ("curvature + least-squares, no reselection", "balanced"),
    "… with the ridge chosen instead of 0.01": ("curvature + least-squares, ridge 0.01", "balanced"),
    "one ranking instead of uniform rates": ("uniform, curvature + least-squares", "balanced"),
    "curvature instead of Taylor scores": ("hgsp, T = 0 + least-squares", "curvature, one step + least-squares"),
    "curvature instead of output error": ("output + least-squares", "curvature, one step + least-squares"),
    "one step for each quarter": ("curvature, one step + least-squares", "balanced"),
    "query heads": ("balanced", "curvature, query heads + least-squares"),
    "damping": ("balanced", "curvature + least-squares, damped"),
    "what `fast` omits": ("fast", "balanced"),
    "gains": ("balanced", "best"),
}


def markdown(rows: Sequence[Row]) -> str:
    """All tables that these rows can fill; those of a model on its own kind of text and on the other."""
    found = list(filter(None, [against_baselines(rows), parts(rows)]))
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        found.append(table(mine, "ppl", "its own kind of text"))
        key = "ppl_other_text"  # which rows made without --data lack
        if seeds := {row["seed"] for row in mine if row["method"] == DENSE and row.get(key)}:
            elsewhere = [row for row in mine if row["seed"] in seeds and (row.get(key) or "why_not" in row)]
            found.append(table(elsewhere, key, "another kind of text"))
    found += [predictions([row for row in rows if row["model"] == model]) for model in asked(rows)]
    return "\n\n".join(found) + "\n"


def asked(rows: Sequence[Row]) -> list[str]:
    """Models that answered questions."""
    return list(dict.fromkeys(row["model"] for row in rows if row.get("fidelity")))


def predictions(rows: Sequence[Row]) -> str:
    """Of one model, a line a run: perplexity on every text, and how far its answers are from the dense model's."""
    answered = [row for row in rows if row.get("fidelity")]
    texts = list(answered[0]["ppl_more"])
    sets = list(answered[0]["fidelity"]["kl_of_choices"])
    words = list(answered[0]["fidelity"].get("target_nats_change", {}))
    head = ["method", "removed", "own text", "other text", *texts, *(f"choices, {name}" for name in sets)]
    head += [*(f"last word, {name}" for name in words), "accuracy"]
    lines = [f"## {answered[0]['model']}: texts and questions", "", _line(head), "|---" * len(head) + "|"]
    for row in sorted(answered, key=lambda row: row["ratio"]):
        told = row["fidelity"]

        def paired(metric: str, name: str, told: Row = told) -> str:
            error = told.get(f"{metric}_stderr", {}).get(name)
            return f"{told[metric][name]:.3f}" + (f" ± {error:.3f}" if error else "")

        cells = [row["method"], f"{row['achieved']:.1%}", f"{row['ppl']:.1f}", f"{row['ppl_other_text']:.1f}"]
        cells += [f"{row['ppl_more'][name]:.1f}" for name in texts]
        cells += [paired("kl_of_choices", name) for name in sets]
        cells += [paired("target_nats_change", name) for name in words]
        lines.append(_line([*cells, f"{statistics.mean(told['answer_accuracy'].values()):.3f}"]))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


class Increases:
    """Perplexity / dense − 1 of every run that reached its ratio. `key`: on which text."""

    def __init__(self, rows: Sequence[Row], key: str):
        dense = {(row["model"], row["seed"]): row[key] for row in rows if row["method"] == DENSE and row.get(key)}
        self._found: dict[tuple[str, str, float], dict[int, float]] = {}
        for row in rows:
            known = row.get(key) and (row["model"], row["seed"]) in dense
            if row["method"] != DENSE and known and row["achieved"] >= REACHED * row["ratio"]:
                of = self._found.setdefault((row["method"], row["model"], row["ratio"]), {})
                of[row["seed"]] = row[key] / dense[row["model"], row["seed"]] - 1
        self.columns = sorted({(model, ratio) for _, model, ratio in self._found})

    def mean(self, method: str, column: tuple[str, float]) -> float | None:
        """Over the seeds; None where there is no such run."""
        found = self._found.get((method, *column))
        return statistics.mean(found.values()) if found else None

    def pairs(self, one: str, other: str) -> Iterator[tuple[float, float]]:
        """Of two methods, a pair for each model and ratio: means over the seeds that both have."""
        for column in self.columns:
            a, b = (self._found.get((method, *column), {}) for method in (one, other))
            if both := a.keys() & b.keys():
                yield statistics.mean(a[seed] for seed in both), statistics.mean(b[seed] for seed in both)


def against_baselines(rows: Sequence[Row]) -> str:
    """The default's increase over that of the best published method, which is named; the same for `best`."""
    found = Increases(rows, "ppl")
    ratios = sorted({ratio for _, ratio in found.columns})
    lines = [f"| model | {' | '.join(f'{ratio:.0%}' for ratio in ratios)} |", "|---|" + "---|" * len(ratios)]
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = []
        for ratio in ratios:
            column = model, ratio
            peers = [(mean, name) for name in BASELINES if (mean := found.mean(name, column)) is not None]
            ours = [found.mean(method, column) for method in (DEFAULT, "best")]
            shown = [f"{own / min(peers)[0]:.2f}" for own in ours if own is not None and peers and min(peers)[0] > 0]
            cells.append(f"{' / '.join(shown)} ({min(peers)[1]})" if shown else "")
        if any(cells):
            lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def parts(rows: Sequence[Row]) -> str:
    """What each part does to the increase of perplexity: geometric mean of the factors, and in how many columns it helps."""
    own, other = Increases(rows, "ppl"), Increases(rows, "ppl_other_text")
    lines = ["| part | without → with | increase × | better in | on other text |", "|---|---|---|---|---|"]
    for part, (without, with_) in PARTS.items():
        pairs = [pair for pair in own.pairs(without, with_) if min(pair) > 0]
        if not pairs:
            continue
        factor = exp(statistics.mean(log(b / a) for a, b in pairs))
        elsewhere = list(other.pairs(without, with_))
        cells = [f"{sum(b < a for a, b in found)} of {len(found)}" for found in (pairs, elsewhere)]
        lines.append(f"| {part} | {without} → {with_} | {factor:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def table(rows: Sequence[Row], key: str, kind: str) -> str:
    """Perplexity / dense (mean of the seeds; the share removed beside it), the best of each column bold."""
    dense = {row["seed"]: row for row in rows if row["method"] == DENSE}
    ratios = sorted({row["ratio"] for row in rows if row["method"] != DENSE})
    cells: dict[str, dict[float, list[Row]]] = {}
    for row in rows:
        cells.setdefault(row["method"], {}).setdefault(row["ratio"], []).append(row)

    def value(found: Sequence[Row]) -> float:
        return statistics.mean(row[key] / dense[row["seed"]][key] for row in found)

    def competes(found: Sequence[Row], ratio: float) -> bool:
        return all(key in row and row["achieved"] >= REACHED * ratio for row in found)

    best = {
        ratio: min((value(c[ratio]) for c in cells.values() if ratio in c and competes(c[ratio], ratio)), default=None)
        for ratio in ratios
    }

    def cell(found: Sequence[Row], ratio: float) -> str:
        if not found:
            return ""
        if any("why_not" in row for row in found):
            return "does not work"
        number = value(found)
        text = f"{number:,.3f}" if number < 10 else f"{number:,.1f}"
        text = f"**{text}**" if number == best[ratio] else text
        spread = [row[key] / dense[row["seed"]][key] for row in found]
        text += f" ± {(max(spread) - min(spread)) / 2:.3f}" if len(found) > 1 else ""
        return f"{text} <sub>{statistics.mean(row['achieved'] for row in found):.1%}</sub>"

    any_dense = next(iter(dense.values()))
    lines = [
        f"## {any_dense['model']}, {kind}",
        "",
        f"{any_dense['parameters']:,} parameters; dense perplexity {any_dense[key]:.2f}.",
        "",
        "| method | " + " | ".join(f"{ratio:.0%}" for ratio in ratios) + " | seconds | peak, MiB |",
        "|---|" + "---|" * len(ratios) + "---|---|",
    ]
    for method, by_ratio in cells.items():
        if method == DENSE:
            continue
        shown = [cell(by_ratio.get(ratio, ()), ratio) for ratio in ratios]
        lines.append(f"| {method} | " + " | ".join([*shown, *costs(by_ratio.values())]) + " |")
    refused = sorted({f"- {row['method']}: {row['why_not']}" for row in rows if "why_not" in row})
    return "\n".join([*lines, "", *refused]).strip()


def costs(found: Iterable[Sequence[Row]]) -> tuple[str, str]:
    """Seconds (median of the runs) and peak MiB (largest)."""
    ran = [row for rows in found for row in rows if "why_not" not in row]
    if not ran:
        return "", ""
    return f"{statistics.median(row['seconds'] for row in ran):.1f}", f"{max(row['peak_bytes'] for row in ran) >> 20}"


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    print(markdown([row for file in sys.argv[1:] for row in json.loads(Path(file).read_text(encoding="utf-8"))]))


if __name__ == "__main__":
    main()
