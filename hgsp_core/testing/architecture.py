"""What an architecture must hold. Its data is checked first, then what follows from it, each against something independent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from hgsp_core import Architecture, Axis, BlockLayout, Layout, Plan, Slice
from hgsp_core.artifacts.surgery import mask_tensors, prune_tensors
from hgsp_core.checkpoint.config import pruned_config
from hgsp_core.checkpoint.load import load_model
from hgsp_core.checkpoint.rehouse import housed_tensors
from hgsp_core.checkpoint.stored import in_files
from hgsp_core.checkpoint.write import write_checkpoint
from hgsp_core.engine.calls import forwards_replaced
from hgsp_core.engine.collectors import TaylorAbs
from hgsp_core.engine.run import run_sweep
from hgsp_core.engine.weights import Resident
from hgsp_core.errors import did_you_mean
from hgsp_core.export.reload import verify_reload
from hgsp_core.testing.check import Check, Table, checks_of, fail, require
from hgsp_core.testing.model import layout_of, random_model, tiny_config
from hgsp_core.testing.plans import fewer_heads, same_sizes, thinned, without

#: largest difference of logits, relative to the largest logit, that fp32 rounding is granted
TOLERANCE = 1e-5
#: what a cut must change at the least: a comparison of two models that are both the original proves nothing
EFFECT = 1e-3
#: samples and tokens that the models are run on
INPUT = (2, 12)


def architecture_checks(
    architecture: Architecture, model: PreTrainedConfig | Callable[[], PreTrainedModel] | None = None
) -> list[Check]:
    """The conformance checks of an architecture, to call one by one.

    Args:
        model: the config of a tiny random model, or a function that returns a (trained) model in fp32; it is called when the
            first check runs. None: a tiny config is made from the family's own.
    """
    if callable(model):
        return checks_of(CHECKS, Case(architecture, model))
    return checks_of(CHECKS, Case(architecture, lambda: random_model(model or tiny_config(architecture))))


@dataclass(frozen=True)
class Case:
    """An architecture and the model it is tried on."""

    architecture: Architecture
    make_model: Callable[[], PreTrainedModel]

    @cached_property
    def model(self) -> PreTrainedModel:
        return self.make_model().eval()

    @cached_property
    def layout(self) -> Layout:
        return layout_of(self.architecture, self.model)

    @cached_property
    def tokens(self) -> Tensor:
        """Random token ids. [samples, tokens]."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.model.config.vocab_size, INPUT, generator=generator)

    @cached_property
    def logits(self) -> Tensor:
        return logits_of(self.model, self.tokens)

    def layers(self) -> nn.ModuleList:
        layers = self.model.get_submodule(self.architecture.layers)
        require(isinstance(layers, nn.ModuleList), f"`layers`: '{self.architecture.layers}' is no list of modules.")
        return cast(nn.ModuleList, layers)

    @contextmanager
    def written(self, plan: Plan) -> Iterator[Path]:
        """The model pruned by a plan, as a checkpoint directory."""
        with TemporaryDirectory(prefix="hgsp-check-") as work:
            nothing, directory = Path(work, "no-tokenizer"), Path(work, "pruned")
            nothing.mkdir()
            config = pruned_config(self.layout, plan)
            tensors = prune_tensors(self.model.state_dict().items(), self.layout, plan)
            housed = in_files(housed_tensors(tensors, self.layout, config), self.architecture, config)
            write_checkpoint(housed, config, nothing, directory)
            yield directory

    def pruned(self, plan: Plan) -> PreTrainedModel:
        """The model pruned by a plan, as a user would load it."""
        with self.written(plan) as directory:
            return load_model(directory)[0]

    @torch.no_grad()
    def masked_logits(self, plan: Plan) -> Tensor:
        """Of the model at its old size, with what the plan removes set to zero, and experts kept from tokens by their router."""
        masked = dict(mask_tensors(self.model.state_dict().items(), self.layout, _with_experts(plan, self.layout)))
        arguments = {"input_ids": self.tokens, "use_cache": False}
        with ExitStack() as stack:
            for block in self.layout.blocks():
                if block.routed and plan.block(block).loses:
                    stack.enter_context(_experts_removed(self.model, block, plan.block(block).kept))
            return torch.func.functional_call(self.model, masked, (), arguments, tie_weights=False).logits

    def require_equal_to_masked(self, plan: Plan, what: str, hint: str) -> None:
        expected = self.masked_logits(plan)
        size = max(1.0, expected.abs().max().item())
        changed = (expected - self.logits).abs().max().item() / size
        require(changed > EFFECT, f"{what}: the logits change by {changed:.1g} only: the check tells nothing. {hint}")
        difference = (logits_of(self.pruned(plan), self.tokens) - expected).abs().max().item() / size
        require(
            difference <= TOLERANCE,
            f"{what}: logits of the pruned model differ by {difference:.2g} (relative, {TOLERANCE:g} allowed) from those of "
            f"the original with the same units set to zero. {hint}",
        )


def _with_experts(plan: Plan, layout: Layout) -> Plan:
    """The plan, keeping all experts."""
    kept = {(b.layer, b.axis.name): range(b.units) if b.routed else plan.block(b).kept for b in layout.blocks()}
    heads = {(b.layer, b.axis.name): plan.block(b).heads for b in layout.blocks() if plan.block(b).heads}
    return Plan.of(layout, kept, 0, heads=heads)


@contextmanager
def _experts_removed(model: nn.Module, block: BlockLayout, kept: Sequence[int]) -> Iterator[None]:
    """Within the context the router's logits of the other experts are -inf, or the block adds nothing where none is kept."""
    layer = block.module.removesuffix(f".{block.axis.block}")
    router, branch = model.get_submodule(f"{layer}.{block.axis.router}"), model.get_submodule(block.module)
    gone = [expert for expert in range(block.units) if expert not in kept]
    forward, linear = router.forward, nn.functional.linear

    def masked(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear(input, weight, bias).index_fill(-1, torch.tensor(gone), float("-inf"))

    def without(*arguments: Any) -> Any:
        nn.functional.linear = masked
        try:
            return forward(*arguments)
        finally:
            nn.functional.linear = linear

    def nothing(module: nn.Module, arguments: Any, output: Any) -> Any:
        return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

    if kept:
        with forwards_replaced([router], without):
            yield
    else:
        with branch.register_forward_hook(nothing):
            yield


@torch.no_grad()
def logits_of(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    return model(input_ids=tokens, use_cache=False).logits


def is_documented(case: Case) -> None:
    """Its summary says which models it is for."""
    require(
        case.architecture.summary.strip(),
        f"Architecture '{case.architecture.model_type}': `summary` is empty; name the models it is for (`hgsp plugins` shows it).",
    )


def model_type_is_the_models(case: Case) -> None:
    """It is named by the `model_type` that its models have in config.json."""
    model_type = case.model.config.model_type
    require(
        model_type == case.architecture.model_type,
        f"The architecture is for model type '{case.architecture.model_type}', the model is a '{model_type}': "
        "`model_type` must be that of config.json.",
    )


def modules_exist(case: Case) -> None:
    """Every module that the architecture names is there."""
    architecture = case.architecture
    for key in ("layers", "embed", "norm", "head"):
        _require_module(case.model, getattr(architecture, key), f"`{key}`", "the model")
    for key, there in (("embed", case.model.get_input_embeddings()), ("head", case.model.get_output_embeddings())):
        name = getattr(architecture, key)
        require(case.model.get_submodule(name) is there, f"`{key}`: '{name}' is not what transformers takes for it.")
    for index, layer in enumerate(case.layers()):
        for axis in _axes(architecture, layer):
            named = [(axis.block, "`block`"), *((name, "`fixed`") for name in axis.fixed)]
            named += [(s.module, "`slices`") for s in axis.slices if not s.bare]
            named += [(name, "`norms`") for name in axis.norms] + [(axis.adds, "`after`")]
            named += [(axis.router, "`router`")] if axis.router else []
            for name, place in named:
                _require_module(layer, name, f"axis '{axis.name}', {place}", f"layer {index}")
            parameters = dict(layer.named_parameters())
            for name in (s.module for s in axis.slices if s.bare and s.module not in parameters):
                hint = did_you_mean(name, parameters)
                fail(f"axis '{axis.name}', `slices`: layer {index} has no parameter '{name}'.{hint}")
            for name in set(axis.cache) - set(axis.slice_names()):
                fail(f"axis '{axis.name}', `cache`: '{name}' is not among the axis's `slices`.")


def _axes(architecture: Architecture, layer: nn.Module) -> list[Axis]:
    """The axes that a layer has: of optional ones those whose tensors are there, or where none of a block is, all."""
    parameters = dict(layer.named_parameters())

    def there(axis: Axis) -> bool:
        return any(_tensor(s) in parameters for s in axis.slices)

    filled = {axis.block for axis in architecture.axes if there(axis)}
    return [a for a in architecture.axes if not a.optional or there(a) or a.block not in filled]


def _tensor(s: Slice) -> str:
    """Name of a slice's tensor in its layer."""
    return s.module if s.bare else f"{s.module}.weight"


def _require_module(root: nn.Module, name: str, place: str, where: str) -> None:
    names = [known for known, _ in root.named_modules() if known]
    require(name in names, f"{place}: {where} has no module '{name}'.{did_you_mean(name, names)}")


def sizes_divide(case: Case) -> None:
    """The config counts the units of each axis, and the weights divide into as many."""
    config = case.model.config.to_dict()
    for axis in case.architecture.axes:
        for key in (axis.units, *axis.scales, *((axis.chosen,) if axis.router else ())):
            require(
                isinstance(config.get(key), int),
                f"axis '{axis.name}': config.json has no number '{key}'.{did_you_mean(key, config)}",
            )
        units = config[axis.units]
        for key in axis.scales:
            require(
                config[key] % units == 0,
                f"axis '{axis.name}', `scales`: {key} = {config[key]} is no multiple of {axis.units} = {units}, so it cannot "
                "shrink in proportion.",
            )
        for index, layer in enumerate(case.layers()):
            for s in axis.slices if axis in _axes(case.architecture, layer) else ():
                place = f"axis '{axis.name}': Slice('{s.module}', {s.dim})"
                require(s.dim in (0, 1), f"{place}: dim is 0 (rows) or 1 (columns).")
                shape = tuple(layer.get_parameter(_tensor(s)).shape)
                require(
                    shape[s.dim] % units == 0,
                    f"axis '{axis.name}': layer {index}, '{s.module}' has shape {shape}; its dimension {s.dim} does not divide "
                    f"into {axis.units} = {units} units. Check `units` and the slice's dim.",
                )
            _require_parts_divide(axis, config, index, layer)
            for name in axis.norms:
                (size,) = layer.get_parameter(f"{name}.weight").shape
                require(
                    size % units == 0,
                    f"axis '{axis.name}', `norms`: layer {index}, '{name}' has {size} entries, which do not divide into "
                    f"{axis.units} = {units} units. A norm of single heads belongs into `fixed`.",
                )


def _require_parts_divide(axis: Axis, config: Mapping[str, Any], index: int, layer: nn.Module) -> None:
    """The lines of a fused linear are those of its parts, and each part divides into the units."""
    modules = [s.module for s in axis.slices]
    for module in dict.fromkeys(m for m in modules if modules.count(m) > 1):
        parts = [s for s in axis.slices if s.module == module]
        keys = [s.rows or axis.units for s in parts]
        for key in keys:
            require(
                isinstance(config.get(key), int),
                f"axis '{axis.name}', '{module}', `rows`: config.json has no number '{key}'.{did_you_mean(key, config)}",
            )
        lines, counts = layer.get_parameter(f"{module}.weight").shape[parts[0].dim], [config[key] for key in keys]
        require(
            lines % sum(counts) == 0 and all(lines // sum(counts) * n % config[axis.units] == 0 for n in counts),
            f"axis '{axis.name}': layer {index}, '{module}' has {lines} lines, which its {len(parts)} slices cannot share in "
            f"proportion to {' : '.join(keys)} = {' : '.join(map(str, counts))}. A fused linear has a slice for each of its "
            "parts; `rows` is the config key that a part's lines are in proportion to.",
        )


def every_parameter_is_accounted_for(case: Case) -> None:
    """Each tensor belongs to a unit, to a block's fixed part, or to no layer; and all are counted once."""
    there = sum(parameter.numel() for parameter in case.model.parameters())
    require(
        case.layout.parameters == there,
        f"The layout counts {case.layout.parameters} parameters, the model has {there}: a module is named twice.",
    )


def axes_are_cut_on_both_sides(case: Case) -> None:
    """An axis cuts what writes its units (rows) and what reads them (columns), and the attention is known by its name.

    Experts are cut with the rows of their router.
    """
    for axis in case.architecture.axes:
        if axis.router:
            require(
                axis.router in (s.module for s in axis.slices) and all(s.dim == 0 for s in axis.slices),
                f"axis '{axis.name}': experts and the rows of their router '{axis.router}' are all cut along dim 0. "
                f"Its slices: {', '.join(f'{s.module} {s.dim}' for s in axis.slices)}.",
            )
            continue
        for dim, side in ((0, "rows of what writes the units"), (1, "columns of what reads them")):
            require(
                any(s.dim == dim for s in axis.slices),
                f"axis '{axis.name}' has no slice with dim {dim}, the {side}: a unit would be cut on one side only. "
                f"Its slices: {', '.join(f'{s.module} {s.dim}' for s in axis.slices)}.",
            )
    cached = [axis.name for axis in case.architecture.axes if axis.cache]
    require(
        cached == ["attention"],
        f"`cache` must be given for one axis, named 'attention', as checkpoints rely on it; it is given for: {cached}.",
    )


def biases_follow_the_rows(case: Case) -> None:
    """A bias is as long as its weight has rows, so it is cut with them."""
    for layer in case.layers():
        for axis in _axes(case.architecture, layer):
            for s in (s for s in axis.slices if not s.bare):
                linear = layer.get_submodule(s.module)
                bias, rows = getattr(linear, "bias", None), linear.get_parameter("weight").shape[0]
                require(
                    bias is None or tuple(bias.shape) == (rows,),
                    f"axis '{axis.name}': '{s.module}' ({type(linear).__name__}) has a weight of {rows} rows and a bias of "
                    f"shape {() if bias is None else tuple(bias.shape)}: its weight is transposed, and only linears "
                    "that store [out, in] can be cut.",
                )


def _outputs(case: Case, layer: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """What these modules of a layer return ("" = the layer itself)."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, given, output: found.update({name: output[0] if isinstance(output, tuple) else output})

    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(layer.get_submodule(name).register_forward_hook(keep(name)))
        logits_of(case.model, case.tokens)
    return found


def _inputs(case: Case, layer: nn.Module) -> dict[str, Tensor]:
    """What the modules of a layer with weights of their own read, of those that are called with one tensor first."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda _, given: found.update({name: given[0]}) if given and isinstance(given[0], Tensor) else None

    with ExitStack() as hooks:
        for name, module in layer.named_modules():
            if not list(module.parameters(recurse=False)):
                continue
            hooks.enter_context(module.register_forward_pre_hook(keep(name)))
        logits_of(case.model, case.tokens)
    return found


@torch.no_grad()
def blocks_add_to_the_residual_stream(case: Case) -> None:
    """A layer's output is its input plus what its blocks return: so a removed block adds nothing."""
    inputs: list[Tensor] = []

    def enter(module: nn.Module, arguments: Any, keywords: Any) -> None:
        inputs.append(arguments[0] if arguments else keywords["hidden_states"])

    for index, layer in enumerate(case.layers()):
        with layer.register_forward_pre_hook(enter, with_kwargs=True):
            blocks = case.layout.layers[index].blocks.values()
            found = _outputs(case, layer, ["", *(block.axis.adds for block in blocks)])
        before, after = inputs.pop(), found.pop("")
        names = " + ".join(block.axis.adds for block in blocks)
        for axis, block in ((block.axis, block) for block in blocks):
            require(
                axis.adds in found and found[axis.adds].shape == after.shape,
                f"axis '{axis.name}', `block`: '{axis.adds}' of layer {index} does not return something to add to the residual "
                "stream; name the whole residual branch.",
            )
            found[axis.adds] = found[axis.adds] * block.gain
        difference = (before + sum(found.values()) - after).abs().max().item() / max(1.0, after.abs().max().item())
        if difference > TOLERANCE:
            fail(
                f"layer {index}: input + {names} differs from the layer's output by {difference:.2g}. "
                f"{_what_comes_between(case, layer, after - before, sum(found.values()))}"
            )


def _what_comes_between(case: Case, layer: nn.Module, added: Tensor, given: Any) -> str:
    """Why what a layer adds to the stream is not what its blocks give: as far as their inputs and the config tell."""
    axes = case.architecture.axes
    read, returned = _inputs(case, layer), _outputs(case, layer, [axis.block for axis in axes])
    for axis in axes:
        y = returned[axis.block]
        readers = [name for name, x in read.items() if x.shape == y.shape and torch.equal(x, y)]
        if axis.after and axis.after not in readers:
            return f"axis '{axis.name}', `after`: '{axis.after}' does not read what '{axis.block}' returns."
        if readers and not axis.after:
            return f"axis '{axis.name}': '{readers[0]}' reads what '{axis.block}' returns: name it in `after`."
    factor = float((added * given).sum() / (given * given).sum())
    if (added - factor * given).abs().max() <= EFFECT * added.abs().max():
        config = case.model.config.to_dict()
        keys = [key for key, value in config.items() if isinstance(value, float) and abs(value - factor) < EFFECT]
        named = f" (in config.json: {' or '.join(keys)})" if keys else ""
        return f"What the blocks return is multiplied by {factor:.4g}{named}: name the config key in `gain`."
    return "Either a `block` is not the residual branch, or the family normalises (`after`) or scales (`gain`) what its blocks return."


def blocks_return_what_their_writers_return(case: Case) -> None:
    """What a block adds to the stream is what its writer gives: a repair fits the writer to it."""
    for index, layer in enumerate(case.layers()):
        for axis in (block.axis for block in case.layout.layers[index].written.values()):
            (writer,) = (s.module for s in axis.slices if s.dim == 1)
            given = _outputs(case, layer, (axis.block, writer))
            difference = (given[axis.block] - given[writer]).abs().max().item()
            require(
                difference <= TOLERANCE * max(1.0, given[axis.block].abs().max().item()),
                f"axis '{axis.name}', layer {index}: '{axis.block}' returns something else than its '{writer}' gives (by "
                f"{difference:.2g}): a norm or a scale stands between them, which a repair would fit the weights to.",
            )


def keep_all_is_the_identity(case: Case) -> None:
    """A plan that keeps everything leaves every tensor and every logit as it was."""
    plan, before = Plan.keep_all(case.layout), case.model.state_dict()
    kept = dict(prune_tensors(before.items(), case.layout, plan))
    changed = [name for name, tensor in kept.items() if not torch.equal(tensor, before[name])]
    require(not changed, f"Keeping everything changes the tensors {changed[:3]}.")
    difference = (logits_of(case.pruned(plan), case.tokens) - case.logits).abs().max().item()
    require(
        difference == 0,
        f"Written and loaded whole, the model's logits differ by {difference:.2g} and must not differ at all: something that the "
        "model computes with is neither in its config nor in its weights.",
    )


def config_keys_shrink(case: Case) -> None:
    """The config of a pruned model builds exactly the tensors that the cut leaves, axis by axis."""
    for axis in case.architecture.axes:
        plan = same_sizes(case.layout, {axis.name})
        built = _built_shapes(pruned_config(case.layout, plan))
        for name, tensor in prune_tensors(case.model.state_dict().items(), case.layout, plan):
            shape = tuple(tensor.shape)
            require(
                built.get(name) == shape,
                f"axis '{axis.name}': '{name}' is cut to {shape}, the pruned config.json makes it {built.get(name)}. "
                f"{_which_key(axis, name.removesuffix('.weight'))}",
            )


def _which_key(axis: Axis, module: str) -> str:
    """What in the axis's data to check where this module comes out at a wrong size."""
    if any(module.endswith(f".{name}") for name in axis.fixed):
        return "It is in `fixed`, but has entries of all units: such a norm belongs into `norms`."
    if any(module.endswith(f".{name}") for name in axis.norms):
        return "It is in `norms`, but has no entries of single units: such a norm belongs into `fixed`."
    return (
        f"Check `units` ('{axis.units}') and `scales` {axis.scales}: they must name every config key that counts the axis's "
        "units or heads."
    )


def _built_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of the model that transformers makes of a config; no memory is taken."""
    values = {key: value for key, value in config.items() if key not in ("model_type", "auto_map")}
    with torch.device("meta"):
        stock = AutoConfig.for_model(config["model_type"], **values)
        model = AutoModelForCausalLM.from_config(stock, trust_remote_code=False)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def pruned_equals_masked(case: Case) -> None:
    """With other units gone in every layer, the loaded checkpoint computes what the masked original does."""
    case.require_equal_to_masked(
        thinned(case.layout),
        "A third of the units removed, layers of different sizes",
        "Check the dims of the slices and that a unit's rows lie together; a fused linear has a slice for each of its parts, in "
        "the order in which they lie in it, and `rows` says how many lines each has.",
    )


def uniformly_pruned_equals_masked(case: Case) -> None:
    """With the same sizes in every layer, where the family's stock class is used, too."""
    axes = {axis.name for axis in case.architecture.axes}
    case.require_equal_to_masked(
        same_sizes(case.layout, axes),
        "A third of the units removed, the same sizes in every layer",
        "The stock class of the pruned config computes something else: check which config keys it uses besides "
        "`units` and `scales`.",
    )


def query_heads_can_go(case: Case) -> None:
    """With one query head less in each group, of some layers and of all, the checkpoint computes what the masked original does."""
    hint = "Check `scales` and `cache`: k_proj and v_proj keep their rows, q_proj and o_proj lose those of the head."
    for everywhere in (False, True):
        plan = fewer_heads(case.layout, everywhere)
        if any(block.loses for layer in plan.layers for block in layer.values()):
            case.require_equal_to_masked(plan, "One query head of every group removed", hint)


def blocks_and_layers_can_go(case: Case) -> None:
    """Without a block, and without a whole layer, the loaded checkpoint computes what the masked original does."""
    middle = len(case.layout.layers) // 2
    for axis in case.architecture.axes:
        hint = f"Check `block` ('{axis.block}') and `fixed` {axis.fixed}: the norm in front of the block belongs to it."
        having = [layer.index for layer in case.layout.layers if axis.name in layer.blocks]
        for layer in dict.fromkeys((*having[:1], *[i for i in having if i >= middle][:1])):
            plan = without(case.layout, {(layer, axis.name)})
            case.require_equal_to_masked(plan, f"The {axis.name} of layer {layer} removed", hint)
    whole = {(middle, axis) for axis in case.layout.layers[middle].blocks}
    case.require_equal_to_masked(without(case.layout, whole), f"Layer {middle} removed", "Check `layers` and `fixed`.")


def _mixed(case: Case) -> Plan:
    """Thinned layers, one without attention and one without MLP or experts (the same one where there are no two)."""
    gone, layers = set[tuple[int, str]](), case.layout.layers[1:] or case.layout.layers
    for i, axis in enumerate(case.architecture.axes):
        having = [layer.index for layer in (*layers[i:], *reversed(layers)) if axis.name in layer.blocks]
        gone |= {(having[0], axis.name)} if having else set()
    return thinned(case.layout, gone)


def generates(case: Case) -> None:
    """A pruned model generates the same tokens with a cache and without."""
    model: Any = case.pruned(_mixed(case))  # `generate` is typed for a protocol that no model class fits
    prompt = case.tokens[:, :5]
    settings: dict[str, Any] = {"attention_mask": torch.ones_like(prompt), "do_sample": False, "pad_token_id": 0}
    settings |= {"max_new_tokens": 8, "min_new_tokens": 8}
    plain = model.generate(prompt, use_cache=False, **settings)
    cached = model.generate(prompt, use_cache=True, **settings)
    require(plain.shape == (len(prompt), 13), f"generate() returned shape {tuple(plain.shape)} instead of (2, 13).")
    require(
        torch.equal(plain, cached),
        "Generated with the KV cache, the tokens differ from those without it: the family's attention does not use "
        f"the cache as transformers' own do. With: {cached[:, 5:].tolist()}, without: {plain[:, 5:].tolist()}.",
    )


def export_reloads(case: Case) -> None:
    """A fresh process with nothing but transformers loads the pruned model and computes the same, bit for bit."""
    plan = _mixed(case)
    with case.written(plan) as directory:
        verify_reload(directory, case.tokens, logits_of(load_model(directory)[0], case.tokens))


def sweep_equals_autograd(case: Case) -> None:
    """Taylor importances measured layer by layer equal those of one plain backward pass over the model."""
    names, parameters = zip(*case.model.named_parameters(), strict=True)
    logits = case.model(input_ids=case.tokens, use_cache=False).logits[:, :-1]
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), case.tokens[:, 1:].flatten())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    product = {n: (p.detach() * g).abs() for n, p, g in zip(names, parameters, gradients, strict=True) if g is not None}

    source = Resident(case.model, case.layout)
    found = run_sweep(source, case.layout, case.tokens.numpy(), [TaylorAbs()])[TaylorAbs()]
    for block in case.layout.blocks():
        expected = _per_unit(product, block)
        measured = torch.as_tensor(found[block.layer][block.axis.name])
        difference = ((measured - expected).abs() / expected.abs().max()).max().item()
        require(
            difference <= 1e-4,
            f"layer {block.layer}, axis '{block.axis.name}': Taylor importances of the sweep differ from plain autograd by "
            f"{difference:.2g} (relative). The sweep runs the `layers` one after another, each on what the one before it gives: "
            "check that `layers` names the list that the model runs in this way.",
        )


def _per_unit(entries: dict[str, Tensor], block: BlockLayout) -> Tensor:
    """[units]: sum over each unit's rows, columns and entries of biases."""
    total = torch.zeros(block.units, dtype=torch.float64)
    for s in block.slices:
        own = slice(s.start, s.start + block.units * s.width)
        total += entries[s.weight].movedim(s.dim, 0)[own].reshape(block.units, -1).double().sum(1)
        if s.has_bias and s.dim == 0:
            total += entries[s.bias][own].reshape(block.units, -1).double().sum(1)
    return total


_COUNTED = (modules_exist, sizes_divide, biases_follow_the_rows, every_parameter_is_accounted_for)
_DATA = (*_COUNTED, axes_are_cut_on_both_sides)
_RUN = (*_DATA, blocks_add_to_the_residual_stream)
_WRITERS = (*_RUN, blocks_return_what_their_writers_return)
_CUT = (*_WRITERS, sweep_equals_autograd, keep_all_is_the_identity, config_keys_shrink)
_ALL = (*_CUT, pruned_equals_masked, uniformly_pruned_equals_masked, query_heads_can_go, blocks_and_layers_can_go)

CHECKS: Table = {
    is_documented: (),
    model_type_is_the_models: (),
    modules_exist: (model_type_is_the_models,),
    sizes_divide: (modules_exist,),
    biases_follow_the_rows: (modules_exist,),
    every_parameter_is_accounted_for: (sizes_divide, biases_follow_the_rows),
    axes_are_cut_on_both_sides: (modules_exist,),
    blocks_add_to_the_residual_stream: _COUNTED,
    blocks_return_what_their_writers_return: _RUN,
    sweep_equals_autograd: _WRITERS,
    keep_all_is_the_identity: _DATA,
    config_keys_shrink: _DATA,
    pruned_equals_masked: _CUT,
    uniformly_pruned_equals_masked: (*_CUT, pruned_equals_masked),
    query_heads_can_go: (*_CUT, pruned_equals_masked, uniformly_pruned_equals_masked),
    blocks_and_layers_can_go: (*_CUT, pruned_equals_masked),
    generates: _ALL,
    export_reloads: (*_ALL, generates),
}
