"""Published pruning methods as methods of H-GSP, each through the public hooks alone."""

from hgsp_baselines.llm_pruner_params import LLMPrunerParams
from hgsp_baselines.slimgpt_params import SlimGPTParams
from hgsp_baselines.slimgpt_rates import SlimGPTRatesParams
from hgsp_baselines.torch_pruning import TorchPruningParams
from hgsp_core import Method, Params, hookimpl


def _own(name: str, target: str, params: type[Params], summary: str) -> Method:
    return Method(name, f"hgsp_baselines.{target}", params, summary)


@hookimpl
def hgsp_scorers() -> list[Method]:
    return [
        _own("wanda-sp", "wanda_sp:WandaSp", Params, "|W| * ||X|| over the columns of o_proj and down_proj only"),
        _own("flap", "flap:Flap", Params, "variance of the input times its column's squared norm, standardised"),
        _own("llm_pruner", "llm_pruner:LLMPruner", LLMPrunerParams, "group Taylor importance of LLM-Pruner"),
    ]


@hookimpl
def hgsp_allocators() -> list[Method]:
    return [
        _own(
            "slimgpt", "slimgpt_rates:SlimGPTRates", SlimGPTRatesParams, "rates that grow with the logarithm of depth"
        ),
        _own(
            "torch_pruning",
            "torch_pruning:TorchPruning",
            TorchPruningParams,
            "plans with Torch-Pruning's BasePruner, on the recipe's scores",
        ),
    ]


@hookimpl
def hgsp_reconstructors() -> list[Method]:
    return [
        _own(
            "slimgpt",
            "slimgpt:SlimGPT",
            SlimGPTParams,
            "reselects each block's units by greedy Optimal Brain Surgery and updates the kept weights",
        ),
    ]
