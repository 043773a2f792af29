"""The methods that come with hgsp-core, registered through the same hooks as anybody's and through nothing else."""

from hgsp_core.builtin.datasets import C4Params, FileParams, HubParams, PTBParams, Wikitext2Params
from hgsp_core.builtin.depth import DepthParams
from hgsp_core.builtin.efficiency_params import EfficiencyParams
from hgsp_core.builtin.gguf_export import GgufParams
from hgsp_core.builtin.harness import LmEvalParams
from hgsp_core.builtin.hgsp import HGSPParams
from hgsp_core.builtin.huggingface import HuggingFaceParams
from hgsp_core.builtin.layerwise import LayerwiseParams
from hgsp_core.builtin.least_squares_params import LeastSquaresParams
from hgsp_core.builtin.normalizers import ClipParams, LevelParams
from hgsp_core.builtin.output_error_params import ObsParams
from hgsp_core.builtin.perplexity import PerplexityParams
from hgsp_core.builtin.prior_file import PriorFileParams
from hgsp_core.builtin.removal import RemovalParams
from hgsp_core.builtin.search_params import SearchParams
from hgsp_core.builtin.taylor_2nd import Taylor2ndParams
from hgsp_core.builtin.training_params import FullParams, LoRAParams
from hgsp_core.builtin.uniform import UniformParams
from hgsp_core.hookspecs import hookimpl
from hgsp_core.types import Method, Params

_HERE = "hgsp_core.builtin"


@hookimpl
def hgsp_scorers():
    return [
        Method("taylor", f"{_HERE}.taylor:Taylor", Params, "sum of |W * gradient| over the unit's weights"),
        Method("taylor_2nd", f"{_HERE}.taylor_2nd:Taylor2nd", Taylor2ndParams, "taylor + 1/2 sum of |W^2 * curvature|"),
        Method("wanda", f"{_HERE}.wanda:Wanda", Params, "sum of |W| times the norm of its input; no gradients"),
        Method(
            "output", f"{_HERE}.output_error:Output", Params, "squared error of the block's output without the unit"
        ),
        Method(
            "obs", f"{_HERE}.output_error:Obs", ObsParams, "the same when what stays is refitted: Optimal Brain Surgeon"
        ),
        Method("magnitude", f"{_HERE}.magnitude:Magnitude", Params, "sum of |W|; needs no calibration data"),
        Method("l2", f"{_HERE}.l2:L2", Params, "sum of W^2; needs no calibration data"),
        Method("random", f"{_HERE}.random_scores:Random", Params, "seeded noise: the control"),
    ]


@hookimpl
def hgsp_priors():
    return [
        Method(
            "similarity", f"{_HERE}.similarity:Similarity", Params, "1 - cosine of the residual stream before and after"
        ),
        Method("removal", f"{_HERE}.removal:Removal", RemovalParams, "loss without the layer or block - loss"),
        Method("activation", f"{_HERE}.activation:Activation", Params, "mean norm of the layer's output"),
        Method("file", f"{_HERE}.prior_file:PriorFile", PriorFileParams, "priors measured before, from a JSON file"),
    ]


@hookimpl
def hgsp_normalizers():
    return [
        Method("none", f"{_HERE}.normalizers:Keep", Params, "scores as they are"),
        Method("log", f"{_HERE}.normalizers:Log", LevelParams, "ln(score - min + 1) per block or layer"),
        Method("minmax", f"{_HERE}.normalizers:MinMax", LevelParams, "to 0..1 per block or layer"),
        Method("zscore", f"{_HERE}.normalizers:ZScore", LevelParams, "to mean 0, deviation 1 per block or layer"),
        Method("sqrt", f"{_HERE}.normalizers:Sqrt", LevelParams, "square root of the score above the smallest one"),
        Method("clip", f"{_HERE}.normalizers:Clip", ClipParams, "cut off outside two percentiles of all units"),
    ]


@hookimpl
def hgsp_allocators():
    return [
        Method(
            "hgsp", f"{_HERE}.hgsp:HGSP", HGSPParams, "gated global knapsack: layer and block priors times unit scores"
        ),
        Method(
            "search", f"{_HERE}.search:Search", SearchParams, "rates by block, by what held-out windows lose; and moves"
        ),
        Method("uniform", f"{_HERE}.uniform:Uniform", UniformParams, "the same rate in every layer of a range"),
        Method("layerwise", f"{_HERE}.layerwise:Layerwise", LayerwiseParams, "the rate of a layer from its prior"),
        Method("depth", f"{_HERE}.depth:Depth", DepthParams, "whole layers of least prior"),
    ]


@hookimpl
def hgsp_reconstructors():
    return [
        Method("none", f"{_HERE}.no_repair:NoRepair", Params, "what stays is left as it was"),
        Method("bias", f"{_HERE}.bias:Bias", Params, "adds the mean of what goes to the bias, where there is one"),
        Method(
            "least-squares",
            f"{_HERE}.least_squares:LeastSquares",
            LeastSquaresParams,
            "what stays takes over what it can of what goes, block by block, in closed form",
        ),
    ]


@hookimpl
def hgsp_recoverers():
    return [
        Method("lora", f"{_HERE}.lora:LoRA", LoRAParams, "trains small adapters beside the linears and merges them"),
        Method("full", f"{_HERE}.full:Full", FullParams, "trains all weights"),
    ]


@hookimpl
def hgsp_evaluators():
    return [
        Method("perplexity", f"{_HERE}.perplexity:Perplexity", PerplexityParams, "exp of the mean loss on a text"),
        Method(
            "efficiency",
            f"{_HERE}.efficiency:Efficiency",
            EfficiencyParams,
            "time, memory, cache and MACs of running it",
        ),
        Method(
            "lm_eval",
            f"{_HERE}.harness:LmEval",
            LmEvalParams,
            "accuracy on tasks of lm-eval; by default seven zero-shot ones",
        ),
    ]


@hookimpl
def hgsp_exporters():
    return [
        Method(
            "huggingface",
            f"{_HERE}.huggingface:HuggingFace",
            HuggingFaceParams,
            "safetensors directory for transformers",
        ),
        Method(
            "gguf",
            f"{_HERE}.gguf_export:Gguf",
            GgufParams,
            "one GGUF file with the tokenizer, checked against the model",
        ),
    ]


@hookimpl
def hgsp_datasets():
    return [
        Method("pydoc", f"{_HERE}.datasets:Pydoc", Params, "Python's documentation, embedded"),
        Method("wikitext2", f"{_HERE}.datasets:Hub", Wikitext2Params, "WikiText-2 (raw), from the hub"),
        Method("c4", f"{_HERE}.datasets:Hub", C4Params, "C4 (English), from the hub, streamed"),
        Method("ptb", f"{_HERE}.datasets:Hub", PTBParams, "Penn Treebank, from the hub"),
        Method("file", f"{_HERE}.datasets:File", FileParams, "local .txt, .json, .jsonl or .parquet"),
        Method("hub", f"{_HERE}.datasets:Hub", HubParams, "any dataset of the Hugging Face hub"),
    ]
