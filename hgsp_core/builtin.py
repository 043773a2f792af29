"""The methods that come with hgsp-core, registered through the same hooks as anybody's and through nothing else."""

from hgsp_core.allocate.depth import DepthParams
from hgsp_core.allocate.hgsp import HGSPParams
from hgsp_core.allocate.layerwise import LayerwiseParams
from hgsp_core.allocate.plan_file import PlanParams
from hgsp_core.allocate.ranking import GlobalParams
from hgsp_core.allocate.uniform import UniformParams
from hgsp_core.data.datasets import C4Params, FileParams, HubParams, PTBParams, Wikitext2Params
from hgsp_core.evaluate.efficiency_params import EfficiencyParams
from hgsp_core.evaluate.fidelity_params import FidelityParams
from hgsp_core.evaluate.harness import LmEvalParams
from hgsp_core.evaluate.perplexity import PerplexityParams
from hgsp_core.export.gguf.exporter import GgufParams
from hgsp_core.export.huggingface import HuggingFaceParams
from hgsp_core.plugin.hookspecs import hookimpl
from hgsp_core.plugin.method import Method, Params
from hgsp_core.recover.training_params import FullParams, GainsParams, LoRAParams
from hgsp_core.repair.least_squares_params import LeastSquaresParams
from hgsp_core.score.normalizers import ClipParams, LevelParams
from hgsp_core.score.params import CurvatureParams, ObsParams, RemovalParams, Taylor2ndParams
from hgsp_core.score.prior_file import PriorFileParams


def _own(name: str, target: str, params: type[Params], summary: str) -> Method:
    return Method(name, f"hgsp_core.{target}", params, summary)


@hookimpl
def hgsp_scorers() -> list[Method]:
    return [
        _own("taylor", "score.scorers:Taylor", Params, "sum of |W * gradient| over the unit's weights"),
        _own("taylor_2nd", "score.scorers:Taylor2nd", Taylor2ndParams, "taylor + 1/2 sum of |W^2 * curvature|"),
        _own("wanda", "score.scorers:Wanda", Params, "sum of |W| times the norm of its input; needs no gradients"),
        _own("output", "score.scorers:Output", Params, "squared error of the block's output without the unit"),
        _own(
            "curvature",
            "score.scorers:Curvature",
            CurvatureParams,
            "nats lost without the unit, kept columns refitted: K-FAC curvature of the predictions",
        ),
        _own(
            "obs",
            "score.scorers:Obs",
            ObsParams,
            "squared output error after refitting the kept weights: Optimal Brain Surgeon",
        ),
        _own("reap", "score.experts:Reap", Params, "router weight times norm of the expert's output; only experts"),
        _own("frequency", "score.experts:Frequency", Params, "share of tokens that go to the expert; only experts"),
        _own("magnitude", "score.scorers:Magnitude", Params, "sum of |W|; needs no calibration data"),
        _own("l2", "score.scorers:L2", Params, "sum of W^2; needs no calibration data"),
        _own("random", "score.scorers:Random", Params, "seeded noise, as a control"),
    ]


@hookimpl
def hgsp_priors() -> list[Method]:
    return [
        _own("similarity", "score.priors:Similarity", Params, "1 - cosine of the residual stream before and after"),
        _own("removal", "score.priors:Removal", RemovalParams, "increase of the loss without the layer or block"),
        _own("activation", "score.priors:Activation", Params, "mean norm of the layer's output"),
        _own("file", "score.prior_file:PriorFile", PriorFileParams, "precomputed priors from a JSON file"),
    ]


@hookimpl
def hgsp_normalizers() -> list[Method]:
    return [
        _own("none", "score.normalizers:Keep", Params, "leaves scores unchanged"),
        _own("log", "score.normalizers:Log", LevelParams, "ln(score - min + 1) per block or layer"),
        _own("minmax", "score.normalizers:MinMax", LevelParams, "rescales scores to 0..1 per block or layer"),
        _own(
            "zscore",
            "score.normalizers:ZScore",
            LevelParams,
            "rescales scores to mean 0, standard deviation 1 per block or layer",
        ),
        _own("sqrt", "score.normalizers:Sqrt", LevelParams, "square root of the score, shifted to 0 or above"),
        _own("clip", "score.normalizers:Clip", ClipParams, "clips scores to two percentiles of all units"),
    ]


@hookimpl
def hgsp_allocators() -> list[Method]:
    return [
        _own("global", "allocate.ranking:Global", GlobalParams, "ranks the units of all layers together"),
        _own(
            "hgsp", "allocate.hgsp:HGSP", HGSPParams, "ranks the units of all layers together, scores gated by priors"
        ),
        _own("uniform", "allocate.uniform:Uniform", UniformParams, "the same rate in every layer of a range"),
        _own("layerwise", "allocate.layerwise:Layerwise", LayerwiseParams, "per-layer rates from the priors"),
        _own("depth", "allocate.depth:Depth", DepthParams, "removes entire layers, lowest prior first"),
        _own("plan", "allocate.plan_file:FromFile", PlanParams, "applies a plan that was made before"),
    ]


@hookimpl
def hgsp_reconstructors() -> list[Method]:
    return [
        _own("none", "repair.no_repair:NoRepair", Params, "leaves the kept weights unchanged"),
        _own(
            "bias", "repair.bias:Bias", Params, "adds the mean output of the removed units to the bias, if there is one"
        ),
        _own(
            "least-squares",
            "repair.least_squares:LeastSquares",
            LeastSquaresParams,
            "refits the kept weights to compensate for the removed ones, in closed form",
        ),
    ]


@hookimpl
def hgsp_recoverers() -> list[Method]:
    return [
        _own("lora", "recover.lora:LoRA", LoRAParams, "trains low-rank adapters and merges them"),
        _own(
            "gains", "recover.gains:Gains", GainsParams, "trains one gain for each input of the writers and merges it"
        ),
        _own("full", "recover.full:Full", FullParams, "trains all weights"),
    ]


@hookimpl
def hgsp_evaluators() -> list[Method]:
    return [
        _own("perplexity", "evaluate.perplexity:Perplexity", PerplexityParams, "exp of the mean loss on a text"),
        _own(
            "fidelity",
            "evaluate.fidelity:Fidelity",
            FidelityParams,
            "KL divergence from the dense model on texts and questions; equal greedy answers",
        ),
        _own(
            "efficiency",
            "evaluate.efficiency:Efficiency",
            EfficiencyParams,
            "inference time, memory, KV cache and MACs",
        ),
        _own(
            "lm_eval",
            "evaluate.harness:LmEval",
            LmEvalParams,
            "accuracy on lm-eval tasks; seven zero-shot tasks by default",
        ),
    ]


@hookimpl
def hgsp_exporters() -> list[Method]:
    return [
        _own(
            "huggingface", "export.huggingface:HuggingFace", HuggingFaceParams, "safetensors directory for transformers"
        ),
        _own(
            "gguf",
            "export.gguf.exporter:Gguf",
            GgufParams,
            "one GGUF file with the tokenizer, checked against the model",
        ),
    ]


@hookimpl
def hgsp_datasets() -> list[Method]:
    return [
        _own("pydoc", "data.datasets:Pydoc", Params, "Python documentation, bundled"),
        _own("wikitext2", "data.datasets:Hub", Wikitext2Params, "WikiText-2 (raw), from the hub"),
        _own("c4", "data.datasets:Hub", C4Params, "C4 (English), from the hub, streamed"),
        _own("ptb", "data.datasets:Hub", PTBParams, "Penn Treebank, from the hub"),
        _own("file", "data.datasets:File", FileParams, "local .txt, .json, .jsonl or .parquet"),
        _own("hub", "data.datasets:Hub", HubParams, "any dataset on the Hugging Face hub"),
    ]
