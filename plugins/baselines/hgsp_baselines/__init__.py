"""Published pruning methods as methods of H-GSP, each through the public hooks alone."""

from hgsp_baselines.llm_pruner_params import LLMPrunerParams
from hgsp_baselines.slimgpt_params import SlimGPTParams
from hgsp_baselines.slimgpt_rates import SlimGPTRatesParams
from hgsp_baselines.torch_pruning import TorchPruningParams
from hgsp_core import Method, Params, hookimpl

_HERE = "hgsp_baselines"


@hookimpl
def hgsp_scorers() -> list[Method]:
    return [
        Method(
            "wanda-sp",
            f"{_HERE}.wanda_sp:WandaSp",
            Params,
            "|W| * ||X|| over the columns of o_proj and down_proj only",
        ),
        Method(
            "flap", f"{_HERE}.flap:Flap", Params, "variance of the input times its column's squared norm, standardised"
        ),
        Method("llm_pruner", f"{_HERE}.llm_pruner:LLMPruner", LLMPrunerParams, "group Taylor importance of LLM-Pruner"),
    ]


@hookimpl
def hgsp_allocators() -> list[Method]:
    return [
        Method(
            "slimgpt",
            f"{_HERE}.slimgpt_rates:SlimGPTRates",
            SlimGPTRatesParams,
            "rates that grow with the logarithm of depth",
        ),
        Method(
            "torch_pruning",
            f"{_HERE}.torch_pruning:TorchPruning",
            TorchPruningParams,
            "plans with Torch-Pruning's BasePruner, on the recipe's scores",
        ),
    ]


@hookimpl
def hgsp_reconstructors() -> list[Method]:
    return [
        Method(
            "slimgpt",
            f"{_HERE}.slimgpt:SlimGPT",
            SlimGPTParams,
            "reselects each block's units by greedy Optimal Brain Surgery and updates the kept weights",
        ),
    ]
