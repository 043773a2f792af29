"""The backward half through activations, and the prices of units that come of it, against plain autograd and brute force."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from hgsp_core.checkpoint.load import load_model
from hgsp_core.engine.collectors import Collector, Depth, TaylorAbs
from hgsp_core.engine.curvature import RemovalCurvature, hull, root, unit_prices
from hgsp_core.engine.obs import inverse_hessian
from hgsp_core.engine.run import run_sweep
from hgsp_core.engine.slopes import numbers
from hgsp_core.engine.weights import Resident, Streamed
from tests.helpers.architectures import CONFIGS, layout_of, tiny_model
from tests.helpers.command import ROOT

SAMPLES, SEQ_LEN = 7, 11


@dataclass(frozen=True)
class Slopes(Collector):
    """Axis -> the slopes themselves [samples, seq_len, hidden], and `AXIS.input` -> what the writer reads."""

    depth = Depth.CURVATURE

    def observe_slopes(self, layer, passage, slopes: Mapping[str, torch.Tensor], sums):
        for axis, block in layer.layout.blocks.items():
            for name, seen in ((axis, slopes[axis]), (f"{axis}.input", passage.inputs[block.writer.local])):
                sums.setdefault(name, []).append(seen.detach().clone())

    def reduce(self, layer, sums):
        found = {name: torch.cat(parts).numpy() for name, parts in sums.items()}
        sums.clear()
        return found


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, 97, (SAMPLES, SEQ_LEN))


def drawn(logits):
    """The tokens at which the distribution function passes the numbers, by a loop over positions."""
    wanted = numbers((logits.shape[0], logits.shape[1] + 1))[:, 1:]
    found = np.empty(wanted.shape, int)
    for place in np.ndindex(wanted.shape):
        below = logits[place].double().softmax(-1).cumsum(-1)
        found[place] = int((below <= wanted[place]).sum())
    return torch.from_numpy(found)


def plain_slopes(model, tokens):
    """Layer -> axis -> gradient of the summed -log p of the drawn tokens by the block's output, by one plain backward."""
    outputs = [{} for _ in model.model.layers]

    def keep(place, axis):
        def hook(module, arguments, output):
            place[axis] = output[0] if isinstance(output, tuple) else output
            place[axis].retain_grad()

        return hook

    hooks = []
    for place, layer in zip(outputs, model.model.layers, strict=True):
        hooks += [layer.self_attn.register_forward_hook(keep(place, "attention"))]
        hooks += [layer.mlp.register_forward_hook(keep(place, "mlp"))]
    logits = model(input_ids=torch.from_numpy(tokens)).logits[:, :-1].float()
    cross_entropy(logits.flatten(0, 1), drawn(logits.detach()).flatten(), reduction="sum").backward()
    for hook in hooks:
        hook.remove()
    return [{axis: output.grad for axis, output in place.items()} for place in outputs]


@pytest.mark.parametrize("kind", CONFIGS)
def test_slopes_are_those_of_one_plain_backward_for_the_drawn_tokens(kind, tokens):
    model = tiny_model(kind)
    found = run_sweep(Resident(model, layout_of(model)), layout_of(model), tokens, [Slopes()], 3)[Slopes()]
    for own, expected in zip(found, plain_slopes(model, tokens), strict=True):
        for axis, slopes in expected.items():
            np.testing.assert_allclose(own[axis], slopes, rtol=1e-4, atol=1e-5 * float(slopes.abs().max()))
    assert all(p.grad is not None for p in model.parameters())  # of the plain one: the sweep's leaves gradients alone


def test_tokens_are_drawn_as_often_as_the_model_predicts_them():
    from hgsp_core.engine.loss import _drawn

    logits = torch.tensor([2.0, 0.0, -1.0, -torch.inf, 1.0])
    found = _drawn(logits.softmax(-1).expand(20_000, 5), torch.rand(20_000, generator=torch.Generator().manual_seed(0)))
    share = torch.bincount(found, minlength=5) / 20_000
    assert (share - logits.softmax(-1)).abs().max() < 0.01
    assert share[3] == 0
    ends = _drawn(logits.softmax(-1).expand(2, 5), torch.tensor([0.0, 1.0 - 2**-24]))
    assert ends.tolist() == [0, 4]


@pytest.mark.parametrize("memory", ["graphs", "device", "disk"])
def test_prices_are_the_same_resident_and_streamed_wherever_streams_are_kept_and_in_batches_of_any_size(
    memory, tokens, tmp_path
):
    model, collectors = tiny_model("qwen3"), [RemovalCurvature(), TaylorAbs()]
    layout = layout_of(model)
    expected = run_sweep(Resident(model, layout), layout, tokens, collectors, SAMPLES)
    sources = [(Resident(model, layout), memory)]
    if memory != "graphs":
        model.save_pretrained(tmp_path, max_shard_size="40KB")
        sources.append((Streamed(tmp_path, layout, model.dtype), memory))
    for source, where in sources:
        found = run_sweep(source, layout, tokens, collectors, 2, memory=where)
        for collector in collectors:
            for own, other in zip(found[collector], expected[collector], strict=True):
                assert own.keys() == other.keys()
                for name in own:
                    np.testing.assert_allclose(own[name], other[name], rtol=2e-3, atol=1e-5 * np.abs(other[name]).max())


def prices_by_hand(writer, x, g, damping, predicted):
    """What a set of columns costs at once: ½ tr(ΔW A ΔWᵀ B), ΔW the best change of the others, by a plain solve."""
    a, b = x.T @ x, g.T @ g / len(x)
    h = a + damping * float(a.diagonal().mean()) * torch.eye(len(a), dtype=a.dtype)

    def price(gone):
        stays = [i for i in range(len(a)) if i not in gone]
        refitted = torch.zeros_like(writer)
        if stays:
            refitted[:, stays] = writer @ h[:, stays] @ torch.linalg.inv(h[stays][:, stays])
        change = refitted - writer
        return float((change @ h @ change.T * b).sum()) / (2 * predicted)

    return price


@pytest.mark.parametrize("axis", ["attention", "mlp"])
def test_the_prices_of_a_block_add_up_to_what_its_elimination_costs_in_the_metric_of_the_predictions(axis):
    model = tiny_model("llama", intermediate_size=7)
    layout, (samples, seq_len) = layout_of(model), (40, SEQ_LEN)
    tokens = np.random.default_rng(0).integers(0, 97, (samples, seq_len))
    collector = RemovalCurvature(damping=0.1)
    statistics = run_sweep(Resident(model, layout), layout, tokens, [collector, Slopes()], 8)
    for layer in layout.layers:
        block = layer.blocks[axis]
        seen = statistics[Slopes()][layer.index]
        x, g = (torch.from_numpy(seen[name]).flatten(0, 1).double() for name in (f"{axis}.input", axis))
        writer = model.get_parameter(block.writer.weight).detach().double()
        price = prices_by_hand(writer, x, g, 0.1, samples * (seq_len - 1))
        width = block.writer.width

        def columns(units, width=width):
            return {c for unit in units for c in range(unit * width, (unit + 1) * width)}

        gone, points = [], [(0, 0.0)]
        for _ in range(block.units):  # greedily, one by one
            left = [unit for unit in range(block.units) if unit not in gone]
            gone.append(min(left, key=lambda unit: price(columns([*gone, unit]))))
            points.append((len(gone) * block.unit_cost, price(columns(gone))))
        outline = hull(points)
        found = statistics[collector][layer.index][axis]
        assert found.sum() == pytest.approx(points[-1][1], rel=1e-4)
        total = 0.0
        for unit, (cost, _) in zip(gone, points[1:], strict=True):
            total += found[unit]
            assert total == pytest.approx(np.interp(cost, *zip(*outline, strict=True)), rel=1e-4)
        assert (np.diff(found[gone]) > 0).all()


def test_elimination_in_the_metric_is_near_the_best_set_of_all():
    generator = torch.Generator().manual_seed(0)
    x, g = torch.randn(200, 8, generator=generator).double(), torch.randn(200, 5, generator=generator).double()
    x[:, 1] = 0.9 * x[:, 0] + 0.1 * x[:, 1]
    g[:, 0] *= 10
    writer = torch.randn(5, 8, generator=generator).double()
    price = prices_by_hand(writer, x, g, 0.01, 200)
    layout = layout_of(tiny_model("llama", intermediate_size=8))
    block = layout.layers[0].blocks["mlp"]
    w = (root(g.T @ g / 200) * (2 * 200) ** -0.5).T @ writer
    found = unit_prices(block, w, inverse_hessian(x.T @ x, 0.01))
    order = found.argsort()
    for n in range(1, 9):
        best = min(price(set(gone)) for gone in combinations(range(8), n))
        assert price(set(order[:n].tolist())) <= 1.1 * best
    assert price(set(order[:1].tolist())) == min(price({i}) for i in range(8))


@pytest.mark.parametrize("tokens", [200, 4])
def test_the_root_of_a_second_moment_gives_it_back_also_of_fewer_tokens_than_features(tokens):
    g = torch.randn(tokens, 6, generator=torch.Generator().manual_seed(0)).double()
    factor = root(g.T @ g)
    torch.testing.assert_close(factor @ factor.T, g.T @ g)


def trained():
    model, _ = load_model(ROOT / "models" / "pydoc-llama", torch.float32)
    text = (ROOT / "hgsp_core" / "texts" / "pydoc").glob("*.txt")
    return model, "\n".join(path.read_text() for path in sorted(text))


def test_on_a_trained_model_the_price_of_a_small_change_is_its_measured_divergence():
    from transformers import AutoTokenizer

    model, text = trained()
    layout = layout_of(model)
    ids = AutoTokenizer.from_pretrained(ROOT / "models" / "pydoc-llama")(text[:200_000]).input_ids
    tokens = np.array(ids[: 48 * 64]).reshape(48, 64)
    seen = run_sweep(Resident(model, layout), layout, tokens, [Slopes()], 8)[Slopes()]
    predicted = tokens.size - len(tokens)
    with torch.no_grad():
        dense = log_softmax(model(torch.from_numpy(tokens)).logits[:, :-1], -1)
    expected, measured = [], []
    for layer in layout.layers:
        for axis, block in layer.blocks.items():
            generator = torch.Generator().manual_seed(0)
            x, g = (torch.from_numpy(seen[layer.index][name]).flatten(0, 1) for name in (f"{axis}.input", axis))
            writer = model.get_submodule(block.writer.module)
            output = x @ writer.weight.detach().T
            size = 0.05 * output.std()

            def noisy(module, arguments, result, size=size, generator=generator):
                return result + size * torch.randn(result.shape, generator=generator)

            with torch.no_grad():
                hook = writer.register_forward_hook(noisy)  # independent from token to token: no cross terms
                other = log_softmax(model(torch.from_numpy(tokens)).logits[:, :-1], -1)
                hook.remove()
            expected.append(0.5 * float(size**2 * g.square().sum()) / predicted)
            measured.append(float(kl_div(other, dense, log_target=True, reduction="sum")) / predicted)
    ratios = np.array(measured) / np.array(expected)
    assert 0.8 < np.median(ratios) < 1.25
    assert (ratios > 0.5).all()
    assert (ratios < 2).all()
