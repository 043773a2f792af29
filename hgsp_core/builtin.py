"""The methods that come with hgsp-core, registered through the same hooks as anybody's and through nothing else."""

from hgsp_core.allocate.depth import DepthParams
from hgsp_core.allocate.hgsp import HGSPParams
from hgsp_core.allocate.layerwise import LayerwiseParams
from hgsp_core.allocate.search_params import SearchParams
from hgsp_core.allocate.uniform import UniformParams
from hgsp_core.data.datasets import C4Params, FileParams, HubParams, PTBParams, Wikitext2Params
from hgsp_core.evaluate.efficiency_params import EfficiencyParams
from hgsp_core.evaluate.harness import LmEvalParams
from hgsp_core.evaluate.perplexity import PerplexityParams
from hgsp_core.export.gguf.exporter import GgufParams
from hgsp_core.export.huggingface import HuggingFaceParams
from hgsp_core.plugin.hookspecs import hookimpl
from hgsp_core.plugin.method import Method, Params
from hgsp_core.recover.training_params import FullParams, LoRAParams
from hgsp_core.repair.least_squares_params import LeastSquaresParams
from hgsp_core.score.normalizers import ClipParams, LevelParams
from hgsp_core.score.params import ObsParams, RemovalParams, Taylor2ndParams
from hgsp_core.score.prior_file import PriorFileParams


@hookimpl
def hgsp_scorers() -> list[Method]:
    return [
        Method("taylor", "hgsp_core.score.scorers:Taylor", Params, "sum of |W * gradient| over the unit's weights"),
        Method(
            "taylor_2nd", "hgsp_core.score.scorers:Taylor2nd", Taylor2ndParams, "taylor + 1/2 sum of |W^2 * curvature|"
        ),
        Method(
            "wanda",
            "hgsp_core.score.scorers:Wanda",
            Params,
            "sum of |W| times the norm of its input; needs no gradients",
        ),
        Method(
            "output", "hgsp_core.score.scorers:Output", Params, "squared error of the block's output without the unit"
        ),
        Method(
            "obs",
            "hgsp_core.score.scorers:Obs",
            ObsParams,
            "squared output error after refitting the kept weights: Optimal Brain Surgeon",
        ),
        Method("magnitude", "hgsp_core.score.scorers:Magnitude", Params, "sum of |W|; needs no calibration data"),
        Method("l2", "hgsp_core.score.scorers:L2", Params, "sum of W^2; needs no calibration data"),
        Method("random", "hgsp_core.score.scorers:Random", Params, "seeded noise, as a control"),
    ]


@hookimpl
def hgsp_priors() -> list[Method]:
    return [
        Method(
            "similarity",
            "hgsp_core.score.priors:Similarity",
            Params,
            "1 - cosine of the residual stream before and after",
        ),
        Method(
            "removal",
            "hgsp_core.score.priors:Removal",
            RemovalParams,
            "increase of the loss without the layer or block",
        ),
        Method("activation", "hgsp_core.score.priors:Activation", Params, "mean norm of the layer's output"),
        Method("file", "hgsp_core.score.prior_file:PriorFile", PriorFileParams, "precomputed priors from a JSON file"),
    ]


@hookimpl
def hgsp_normalizers() -> list[Method]:
    return [
        Method("none", "hgsp_core.score.normalizers:Keep", Params, "leaves scores unchanged"),
        Method("log", "hgsp_core.score.normalizers:Log", LevelParams, "ln(score - min + 1) per block or layer"),
        Method(
            "minmax", "hgsp_core.score.normalizers:MinMax", LevelParams, "rescales scores to 0..1 per block or layer"
        ),
        Method(
            "zscore",
            "hgsp_core.score.normalizers:ZScore",
            LevelParams,
            "rescales scores to mean 0, standard deviation 1 per block or layer",
        ),
        Method(
            "sqrt", "hgsp_core.score.normalizers:Sqrt", LevelParams, "square root of the score, shifted to 0 or above"
        ),
        Method("clip", "hgsp_core.score.normalizers:Clip", ClipParams, "clips scores to two percentiles of all units"),
    ]


@hookimpl
def hgsp_allocators() -> list[Method]:
    return [
        Method(
            "hgsp",
            "hgsp_core.allocate.hgsp:HGSP",
            HGSPParams,
            "gated global knapsack: layer and block priors times unit scores",
        ),
        Method(
            "search", "hgsp_core.allocate.search:Search", SearchParams, "searches per-block rates against held-out KL"
        ),
        Method(
            "uniform", "hgsp_core.allocate.uniform:Uniform", UniformParams, "the same rate in every layer of a range"
        ),
        Method(
            "layerwise", "hgsp_core.allocate.layerwise:Layerwise", LayerwiseParams, "per-layer rates from the priors"
        ),
        Method("depth", "hgsp_core.allocate.depth:Depth", DepthParams, "removes entire layers, lowest prior first"),
    ]


@hookimpl
def hgsp_reconstructors() -> list[Method]:
    return [
        Method("none", "hgsp_core.repair.no_repair:NoRepair", Params, "leaves the kept weights unchanged"),
        Method(
            "bias",
            "hgsp_core.repair.bias:Bias",
            Params,
            "adds the mean output of the removed units to the bias, if there is one",
        ),
        Method(
            "least-squares",
            "hgsp_core.repair.least_squares:LeastSquares",
            LeastSquaresParams,
            "refits the kept weights to compensate for the removed ones, in closed form",
        ),
    ]


@hookimpl
def hgsp_recoverers() -> list[Method]:
    return [
        Method("lora", "hgsp_core.recover.lora:LoRA", LoRAParams, "trains low-rank adapters and merges them"),
        Method("full", "hgsp_core.recover.full:Full", FullParams, "trains all weights"),
    ]


@hookimpl
def hgsp_evaluators() -> list[Method]:
    return [
        Method(
            "perplexity", "hgsp_core.evaluate.perplexity:Perplexity", PerplexityParams, "exp of the mean loss on a text"
        ),
        Method(
            "efficiency",
            "hgsp_core.evaluate.efficiency:Efficiency",
            EfficiencyParams,
            "inference time, memory, KV cache and MACs",
        ),
        Method(
            "lm_eval",
            "hgsp_core.evaluate.harness:LmEval",
            LmEvalParams,
            "accuracy on lm-eval tasks; seven zero-shot tasks by default",
        ),
    ]


@hookimpl
def hgsp_exporters() -> list[Method]:
    return [
        Method(
            "huggingface",
            "hgsp_core.export.huggingface:HuggingFace",
            HuggingFaceParams,
            "safetensors directory for transformers",
        ),
        Method(
            "gguf",
            "hgsp_core.export.gguf.exporter:Gguf",
            GgufParams,
            "one GGUF file with the tokenizer, checked against the model",
        ),
    ]


@hookimpl
def hgsp_datasets() -> list[Method]:
    return [
        Method("pydoc", "hgsp_core.data.datasets:Pydoc", Params, "Python documentation, bundled"),
        Method("wikitext2", "hgsp_core.data.datasets:Hub", Wikitext2Params, "WikiText-2 (raw), from the hub"),
        Method("c4", "hgsp_core.data.datasets:Hub", C4Params, "C4 (English), from the hub, streamed"),
        Method("ptb", "hgsp_core.data.datasets:Hub", PTBParams, "Penn Treebank, from the hub"),
        Method("file", "hgsp_core.data.datasets:File", FileParams, "local .txt, .json, .jsonl or .parquet"),
        Method("hub", "hgsp_core.data.datasets:Hub", HubParams, "any dataset on the Hugging Face hub"),
    ]
