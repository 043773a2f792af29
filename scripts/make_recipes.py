"""Writes recipes/MODEL/METHOD.yaml: every method, baselines too, on the models of the headline results, at 20 %.

    python scripts/make_recipes.py

All share one calibration set and one measurement, so their reports can be laid side by side. recipes/baselines has the
baselines on the demo model, SlimGPT and ShortGPT there with their authors' own calibration.
"""

from dataclasses import dataclass
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class Model:
    path: str
    layers: int


MODELS = {
    "llama-3-8b": Model("meta-llama/Meta-Llama-3-8B", 32),
    "qwen2.5-7b": Model("Qwen/Qwen2.5-7B", 28),
    "mistral-7b-v0.3": Model("mistralai/Mistral-7B-v0.3", 32),
}

#: what every recipe begins and ends with
START = """\
version: 1
model: {{path: {path}, dtype: bfloat16}}
calibrate: {{dataset: wikitext2, samples: 128, seq_len: 128, batch_size: 4, seed: 0}}
"""
END = """\
evaluate: [{{use: perplexity, with: {{datasets: [wikitext2]}}}}]
output: results/{model}/{method}
"""

REMOVAL = "prior: {use: removal, with: {samples: 50}}\n"
HGSP = "allocate: {use: hgsp, with: {ratio: 0.2}}\n"

#: method -> (what it is, its stages)
METHODS = {
    "default": (
        "What hgsp does when it is left to itself: rates by what each block's loss costs, what stays refitted.",
        "allocate: {with: {ratio: 0.2}}\n",
    ),
    "fast": ("The default with fewer tries and less repair.", "quality: fast\nallocate: {with: {ratio: 0.2}}\n"),
    "best": ("The default with a longer search.", "quality: best\nallocate: {with: {ratio: 0.2}}\n"),
    "obs": (
        "Optimal Brain Surgeon's error of whole units, the same rate in every layer, what stays refitted.",
        "score: {use: obs}\nallocate: {use: uniform, with: {ratio: 0.2}}\nreconstruct: {use: least-squares}\n",
    ),
    "hgsp": (
        "H-GSP: Taylor scores, gated by what the loss gains without a layer or block, one budget for all layers.",
        "score: {use: taylor}\n" + REMOVAL + HGSP,
    ),
    "hgsp-least-squares": (
        "H-GSP, and what stays takes over what it can of what goes.",
        "score: {use: taylor}\n" + REMOVAL + HGSP + "reconstruct: {use: least-squares}\n",
    ),
    "hgsp-clip-log": (
        "H-GSP where gradient scales differ more than 1000 times between layers: outliers clipped, then logarithms.",
        "score: {use: taylor}\n"
        + REMOVAL
        + "normalize: [{use: clip, with: {low: 5, high: 95}}, {use: log, with: {level: block}}]\n"
        + HGSP,
    ),
    "hgsp-similarity": (
        "H-GSP with the cheap prior: how little a layer or block turns the residual stream.",
        "score: {use: taylor}\nprior: {use: similarity}\n" + HGSP,
    ),
    "hgsp-activation": (
        "H-GSP with the norm of what a layer or block gives as its prior.",
        "score: {use: taylor}\nprior: {use: activation}\n" + HGSP,
    ),
    "hgsp-taylor_2nd": (
        "H-GSP with second-order Taylor scores.",
        "score: {use: taylor_2nd}\n" + REMOVAL + HGSP,
    ),
    "hgsp-wanda": (
        "H-GSP with weights times input norms as scores: no gradients.",
        "score: {use: wanda}\n" + REMOVAL + HGSP,
    ),
    "hgsp-magnitude": (
        "H-GSP with the size of the weights as scores; calibration data serve the prior alone.",
        "score: {use: magnitude}\n" + REMOVAL + HGSP,
    ),
    "hgsp-l2": (
        "H-GSP with squared weights as scores; calibration data serve the prior alone.",
        "score: {use: l2}\n" + REMOVAL + HGSP,
    ),
    "global": (
        "Plain global importance, H-GSP's ablation without the gate: needs no prior.",
        "score: {use: taylor}\nallocate: {use: hgsp, with: {ratio: 0.2, temperature: 0}}\n",
    ),
    "uniform": (
        "The same rate in every layer but the first 3 and the last 2.",
        "score: {use: taylor}\n"
        "allocate:\n"
        "  use: uniform\n"
        "  with:\n"
        "    ratio: 0.2\n"
        "    attention: {layer_start: 3, layer_end: LAST}\n"
        "    mlp: {layer_start: 3, layer_end: LAST}\n",
    ),
    "layerwise": (
        "A rate for each layer from its prior: important layers lose less.",
        "score: {use: taylor}\n"
        + REMOVAL
        + "allocate: {use: layerwise, with: {ratio: 0.2, strategy: inverse, log_transform: true}}\n",
    ),
    "shortgpt": (
        "ShortGPT: whole layers that turn the residual stream least; scores play no part, so the one without data.",
        "score: {use: magnitude}\nprior: {use: similarity}\nallocate: {use: depth, with: {ratio: 0.2}}\n",
    ),
    "magnitude": (
        "The size of the weights, the same rate in every layer: needs no data; calibration is read by nobody.",
        "score: {use: magnitude}\nallocate: {use: uniform, with: {ratio: 0.2}}\n",
    ),
    "wanda": (
        "Weights times input norms of all of a unit's linears, the same rate in every layer.",
        "score: {use: wanda}\nallocate: {use: uniform, with: {ratio: 0.2}}\n",
    ),
    "wanda-sp": (
        "Wanda-sp (hgsp-baselines): weights times input norms where a unit writes to the stream, the same rate in every layer.",
        "score: {use: wanda-sp}\nallocate: {use: uniform, with: {ratio: 0.2}}\n",
    ),
    "flap": (
        "FLAP (hgsp-baselines): fluctuation of inputs, one standardised order for all layers, bias compensation where it fits.",
        "score: {use: flap}\nallocate: {use: hgsp, with: {ratio: 0.2, temperature: 0, epsilon: 0}}\nreconstruct: {use: bias}\n",
    ),
    "llm_pruner": (
        "LLM-Pruner (hgsp-baselines): element-wise first order, all layers but the first 4 and the last 2.",
        "score: {use: llm_pruner, with: {importance: first}}\n"
        "allocate:\n"
        "  use: uniform\n"
        "  with:\n"
        "    ratio: 0.2\n"
        "    attention: {layer_start: 4, layer_end: LAST}\n"
        "    mlp: {layer_start: 4, layer_end: LAST}\n",
    ),
    "slimgpt": (
        "SlimGPT (hgsp-baselines) on the shared calibration set; its authors use 64 samples of 2048 tokens, one at a time.",
        "score: {use: magnitude}\nallocate: {use: slimgpt, with: {ratio: 0.2}}\nreconstruct: {use: slimgpt}\n",
    ),
    "torch_pruning": (
        "Torch-Pruning (hgsp-baselines[torch-pruning]) decides by magnitude; of grouped-query attention it prunes the MLPs alone.",
        "score: {use: magnitude}\nallocate: {use: torch_pruning, with: {ratio: 0.2}}\n",
    ),
    "random": (
        "The control: units at random, the same rate in every layer.",
        "score: {use: random}\nallocate: {use: uniform, with: {ratio: 0.2}}\n",
    ),
}


def recipes() -> dict[str, str]:
    """Path below recipes/ -> text."""
    return {
        f"{name}/{method}.yaml": f"# {what}\n"
        + START.format(path=model.path)
        + _unrepaired(stages).replace("LAST", str(model.layers - 2))
        + END.format(model=name, method=method)
        for name, model in MODELS.items()
        for method, (what, stages) in METHODS.items()
    }


def _unrepaired(stages: str) -> str:
    """The stages; those that name their scores but no repair have none, instead of the default."""
    return stages if "reconstruct:" in stages or "score:" not in stages else stages + "reconstruct: {use: none}\n"


if __name__ == "__main__":
    for path, text in recipes().items():
        file = RECIPES / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    print(f"Wrote {len(recipes())} recipes below {RECIPES}.")
