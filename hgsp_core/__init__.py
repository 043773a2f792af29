"""H-GSP: structured pruning of language models by recipe.

    import hgsp_core as hgsp

    report = hgsp.run("recipe.yaml", ratio=0.3, output="results/thirty")
    model, tokenizer = hgsp.load("results/thirty/model")

Importing this package never imports torch. The names here are what notebooks and plugins need; `__init__.pyi` tells their types.
"""

from importlib import import_module
from typing import Any

from hgsp_core.checkpoint.register import register_on_import
from hgsp_core.plugin.deprecations import find_moved_modules

__version__ = "0.1.0"

_PUBLIC = {
    "Architecture": "model.architecture",
    "Axis": "model.architecture",
    "Slice": "model.architecture",
    "Relative": "model.architecture",
    "GATED_EXPERTS": "model.architecture",
    "GATED_MLP": "model.architecture",
    "GROUPED_ATTENTION": "model.architecture",
    "pre_norm_decoder": "model.architecture",
    "Layout": "model.layout",
    "read_layout": "model.layout",
    "Method": "plugin.method",
    "Params": "plugin.method",
    "hookimpl": "plugin.hookspecs",
    "Calibration": "artifacts",
    "Plan": "artifacts",
    "Priors": "artifacts",
    "Scores": "artifacts",
    "LayerStatistics": "artifacts",
    "Statistics": "artifacts",
    "Scorer": "score.contract",
    "ScoreJob": "score.contract",
    "Prior": "score.contract",
    "PriorJob": "score.contract",
    "Normalizer": "score.contract",
    "NormalizeJob": "score.contract",
    "Allocator": "allocate.contract",
    "AllocateJob": "allocate.contract",
    "Reconstructor": "repair.contract",
    "BlockJob": "repair.contract",
    "ReadJob": "repair.contract",
    "Moments": "repair.contract",
    "HeldOut": "repair.held_out",
    "Repair": "repair.contract",
    "Recoverer": "recover.contract",
    "RecoverJob": "recover.contract",
    "Evaluator": "evaluate.contract",
    "PairEvaluator": "evaluate.contract",
    "EvaluateJob": "evaluate.contract",
    "Exporter": "export.contract",
    "ExportJob": "export.contract",
    "Dataset": "data.contract",
    "DatasetJob": "data.contract",
    "Collector": "engine.collectors",
    "Depth": "engine.collectors",
    "Sums": "engine.sums",
    "Layer": "engine.layer",
    "Passage": "engine.layer",
    "BlockLayout": "model.layout",
    "LayerLayout": "model.layout",
    "SliceLayout": "model.layout",
    "HgspError": "errors",
    "Use": "runtime.recipe",
    "run": "pipeline",
    "plan": "pipeline",
    "evaluate_checkpoint": "evaluate.checkpoint",
    "load": "checkpoint.load",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Public names are found on first use, so that `hgsp --help` does not pay for all of them."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hgsp_core' has no attribute '{name}'")
    return getattr(import_module(f"hgsp_core.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


find_moved_modules()
register_on_import()  # a pruned model then loads without trust_remote_code, whatever is imported first
