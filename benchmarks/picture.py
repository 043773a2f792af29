"""One picture of what `quality.py` found on a model that answered questions: what each method costs at each size.

    python benchmarks/picture.py rows.json OUT.png [--model NAME]

Above: perplexity over that of the dense model, on the kind of text that was calibrated on. Below: KL divergence of the
choices from the dense model's, mean of the question sets. Both over the share of the layers' parameters that is removed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from tables import DENSE, Row, asked

from hgsp_core.report.chart import Chart, Mark, Scale, Series, colour
from hgsp_core.report.png import write_png

#: method -> its name in the picture, in the order of colours
SHOWN = {
    "balanced": "H-GSP, default",
    "best": "H-GSP, best",
    "slimgpt": "SlimGPT",
    "flap": "FLAP",
    "wanda-sp": "Wanda-sp",
    "llm_pruner": "LLM-Pruner",
}


def charts(rows: Sequence[Row], model: str) -> list[Chart]:
    """The two charts of one model."""
    mine = [row for row in rows if row["model"] == model and "ppl" in row]
    dense = next(row for row in mine if row["method"] == DENSE)

    def chart(title: str, axis: str, value: Callable[[Row], float]) -> Chart:
        series = []
        for index, (method, name) in enumerate(SHOWN.items()):
            found = sorted((row for row in mine if row["method"] == method), key=lambda row: row["achieved"])
            marks = [Mark(100 * row["achieved"], value(row), f"{name}: {value(row):.3g}") for row in found]
            series.append(Series(name, marks, colour(index)))
        every = [mark for one in series for mark in one.marks]
        sizes = Scale.over([mark.x for mark in every], "removed, % of the layers' parameters")
        return Chart(title, "curves", sizes, Scale.over([mark.y for mark in every], axis), series, height=260)

    return [
        chart("Perplexity, calibrated kind of text", "times the dense model's", lambda row: row["ppl"] / dense["ppl"]),
        chart("Answers", "KL of choices, nats", lambda row: statistics.mean(row["fidelity"]["kl_of_choices"].values())),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", help="default: the first that answered questions")
    options = parser.parse_args()
    rows: list[Row] = json.loads(options.rows.read_text(encoding="utf-8"))
    model = options.model or asked(rows)[0]
    write_png(options.picture, charts(rows, model), f"{model}: the same tokens for all methods")


if __name__ == "__main__":
    main()
