"""A checkpoint as llama.cpp sees it: the architecture that can hold it, its settings, and its tensors one by one.

Measured with llama.cpp of llama-cpp-python 0.3.36:
    llama, qwen2, qwen3   one size for all layers; qwen2 wants heads * head_dim == hidden size, so other Qwen2 shapes go
                          as llama, which is the same network
    deci                  Llama with sizes of each layer; a layer without attention is allowed, but not as the first one
    openelm               with q/k norms and sizes of each layer; the head is always the embedding, attention always there
What is gone and must be there is written as a stub of zeros, which adds nothing to the residual stream: an attention of one
head, an MLP of 32 channels (`feed_forward_length` 0 loads, and drops the attention of that layer without a word).
llama and deci rotate neighbouring values of a head, transformers its two halves, so rows of q and k are reordered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hgsp_core.export.gguf.errors import GgufError
from hgsp_core.model.layout import Layout, Shape

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from torch import Tensor
    from transformers import PreTrainedConfig

    from hgsp_core.checkpoint.shards import Shards

#: channels of the stub of a removed MLP: one block of q8_0
STUB_CHANNELS = 32
#: architectures that rotate neighbouring values of a head
_INTERLEAVED = ("llama", "deci")
_ROPES = ("default", "linear", "llama3")
#: linears whose biases the qwen2 architecture of llama.cpp has no place for
_NO_BIAS_IN_QWEN2 = ("o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Sizes:
    """Of one layer: query heads, KV heads, MLP channels; 0 if the block was removed."""

    heads: int
    kv_heads: int
    channels: int


@dataclass(frozen=True)
class Piece:
    """One tensor of the file.

    shape    as torch has it, [rows, columns] or [values]
    sources  tensors of the checkpoint that it is made of, one under the other; none = filled with `fill`
    heads    that share its rows and are reordered for interleaved rotation; 0 = rows stay as they are
    values   given here instead of in the checkpoint
    """

    name: str
    shape: Shape
    sources: tuple[str, ...] = ()
    heads: int = 0
    fill: float = 0.0
    values: tuple[float, ...] = ()

    def read(self, shards: Shards) -> Tensor:
        """The tensor as the file wants it, in the dtype that the checkpoint stores it in."""
        import torch

        if self.values:
            return torch.tensor(self.values, dtype=torch.float32)
        if not self.sources:
            return torch.full(self.shape, self.fill)
        parts = []
        for name in self.sources:
            parts.append(torch.empty(shards.shape(name), dtype=shards.dtype(name)))
            shards.read_into(name, parts[-1])
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        return _interleaved(whole, self.heads) if self.heads else whole


def _interleaved(rows: Tensor, heads: int) -> Tensor:
    """Rows (or bias values) of each head from halves (x_0 .. x_n, y_0 .. y_n) to neighbours (x_0, y_0, x_1, y_1 ..)."""
    halves = rows.unflatten(0, (heads, 2, rows.shape[0] // heads // 2))
    return halves.transpose(1, 2).reshape(rows.shape)


@dataclass(frozen=True)
class Network:
    """What llama.cpp must be told. `sizes` as written, stubs counted."""

    arch: str
    config: PreTrainedConfig
    sizes: tuple[Sizes, ...]
    head_dim: int
    context: int
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = ()

    def describe(self, writer: GGUFWriter) -> None:
        """Write the settings of the architecture."""
        config, rope = self.config, self.config.rope_parameters
        writer.add_block_count(len(self.sizes))
        writer.add_context_length(self.context)
        writer.add_embedding_length(config.hidden_size)
        writer.add_vocab_size(config.vocab_size)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_key_length(self.head_dim)  # llama.cpp else derives it from a number of heads that no longer holds
        writer.add_value_length(self.head_dim)
        writer.add_rope_dimension_count(self.head_dim)
        writer.add_rope_freq_base(rope["rope_theta"])
        if rope["rope_type"] == "linear":
            writer.add_string(f"{self.arch}.rope.scaling.type", "linear")
            writer.add_rope_scaling_factor(rope["factor"])
        heads, kv_heads, channels = zip(*((s.heads, s.kv_heads, s.channels) for s in self.sizes), strict=True)
        one_size = len(set(self.sizes)) == 1
        writer.add_head_count(heads[0] if one_size else list(heads))
        writer.add_head_count_kv(kv_heads[0] if one_size else list(kv_heads))
        writer.add_feed_forward_length(channels[0] if one_size else list(channels))


def network(layout: Layout, config: PreTrainedConfig) -> Network:
    """How llama.cpp holds a model.

    Args:
        layout: of the checkpoint, or of the model that a plan will leave.
        config: as transformers reads it, of the checkpoint or of the original.

    Raises:
        GgufError: llama.cpp has no architecture that computes the same; says which setting, and the way round.
    """
    shapes = layout.shapes()
    if not layout.architecture.gguf:
        raise GgufError.family(layout.architecture.model_type)
    if config.hidden_act != "silu":
        raise GgufError.setting("hidden_act", config.hidden_act, ["silu"])
    rope = config.rope_parameters
    if rope.get("rope_type", "default") not in _ROPES:
        raise GgufError.setting("rope_parameters.rope_type", rope["rope_type"], _ROPES)
    if rope.get("partial_rotary_factor", 1) != 1:
        raise GgufError.setting("rope_parameters.partial_rotary_factor", rope["partial_rotary_factor"], [1])

    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sizes = tuple(_sizes(layer.module, shapes, head_dim) for layer in layout.layers)
    has_norms = any(f"{layer.module}.self_attn.q_norm.weight" in shapes for layer in layout.layers)
    uniform = len(set(sizes)) == 1 and 0 not in vars(sizes[0]).values()
    if has_norms:
        arch = _arch_with_head_norms(layout, shapes, uniform, rope)
    elif not uniform:
        arch = "deci"
    else:
        arch = layout.architecture.gguf
        more_biases = any(name.endswith(tuple(f".{m}.bias" for m in _NO_BIAS_IN_QWEN2)) for name in shapes)
        if arch == "qwen2" and (more_biases or sizes[0].heads * head_dim != config.hidden_size):
            arch = "llama"

    written = tuple(_written(arch, index, own) for index, own in enumerate(sizes))
    context, notes = _context(config)
    stubs = sum(s.heads != w.heads for s, w in zip(sizes, written, strict=True))
    if stubs:
        notes += (f"GGUF: llama.cpp needs an attention where {stubs} layer(s) have none: they get a head of zeros.",)
    pieces = tuple(_pieces(arch, layout, shapes, sizes, written, head_dim, rope))
    return Network(arch, config, written, head_dim, context, pieces, notes)


def _sizes(layer: str, shapes: Mapping[str, Shape], head_dim: int) -> Sizes:
    def rows(module: str) -> int:
        return shapes.get(f"{layer}.{module}.weight", (0,))[0]

    return Sizes(rows("self_attn.q_proj") // head_dim, rows("self_attn.k_proj") // head_dim, rows("mlp.gate_proj"))


def _arch_with_head_norms(layout: Layout, shapes: Mapping[str, Shape], uniform: bool, rope: Mapping[str, Any]) -> str:
    """qwen3 or openelm; neither supports biases or rope factors."""
    biases = sorted(name for name in shapes if name.endswith(".bias"))
    if biases:
        raise GgufError.biases(biases)
    if rope.get("rope_type") == "llama3":
        raise GgufError.setting("rope_parameters.rope_type", "llama3", ["default", "linear"])
    if uniform:
        return "qwen3"
    if f"{layout.architecture.head}.weight" in shapes:
        raise GgufError.untied()
    return "openelm"


def _written(arch: str, index: int, sizes: Sizes) -> Sizes:
    """The sizes with stubs where llama.cpp requires a block."""
    needs_attention = arch == "openelm" or index == 0  # it derives the size of a head from the first layer's
    stub = not sizes.heads and needs_attention
    return Sizes(1 if stub else sizes.heads, 1 if stub else sizes.kv_heads, sizes.channels or STUB_CHANNELS)


def _context(config: PreTrainedConfig) -> tuple[int, tuple[str, ...]]:
    """The tokens for which llama.cpp computes the same, and what to say where these are fewer than the model's own."""
    whole, window = config.max_position_embeddings, getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"]
    if window is None or window >= whole or "sliding_attention" not in kinds:
        return whole, ()
    note = f"GGUF: llama.cpp lacks this family's sliding window of {window} tokens: that is the context length."
    return window, (note,)


def _pieces(
    arch: str,
    layout: Layout,
    shapes: Mapping[str, Shape],
    sizes: tuple[Sizes, ...],
    written: tuple[Sizes, ...],
    head_dim: int,
    rope: Mapping[str, Any],
) -> Iterator[Piece]:
    """The tensors of the file in the order they are written."""
    architecture = layout.architecture
    hidden = shapes[f"{architecture.embed}.weight"][1]

    def plain(name: str, module: str) -> Iterator[Piece]:
        for kind in ("weight", "bias"):
            if (source := f"{module}.{kind}") in shapes:
                yield Piece(f"{name}.{kind}", shapes[source], (source,))

    yield from plain("token_embd", architecture.embed)
    yield from plain("output_norm", architecture.norm)
    yield from plain("output", architecture.head)
    if rope.get("rope_type") == "llama3":
        factors = tuple(llama3_factors(rope, head_dim))
        yield Piece("rope_freqs.weight", (len(factors),), values=factors)
    for index, (layer, own, there) in enumerate(zip(layout.layers, sizes, written, strict=True)):
        to, module = f"blk.{index}", layer.module
        if own.heads:
            yield from plain(f"{to}.attn_norm", f"{module}.input_layernorm")
            yield from plain(f"{to}.attn_q_norm", f"{module}.self_attn.q_norm")
            yield from plain(f"{to}.attn_k_norm", f"{module}.self_attn.k_norm")
            yield from _qkv(arch, to, module, shapes, own)
            yield from plain(f"{to}.attn_output", f"{module}.self_attn.o_proj")
        elif there.heads:
            yield from _no_attention(arch, to, hidden, head_dim)
        if own.channels:
            yield from plain(f"{to}.ffn_norm", f"{module}.post_attention_layernorm")
            for linear in ("gate", "up", "down"):
                yield from plain(f"{to}.ffn_{linear}", f"{module}.mlp.{linear}_proj")
        else:
            yield Piece(f"{to}.ffn_norm.weight", (hidden,), fill=1.0)
            yield Piece(f"{to}.ffn_gate.weight", (STUB_CHANNELS, hidden))
            yield Piece(f"{to}.ffn_up.weight", (STUB_CHANNELS, hidden))
            yield Piece(f"{to}.ffn_down.weight", (hidden, STUB_CHANNELS))


def _qkv(arch: str, to: str, module: str, shapes: Mapping[str, Shape], sizes: Sizes) -> Iterator[Piece]:
    """Query, key and value: one tensor each, or all in one for openelm."""
    for kind in ("weight", "bias"):
        names = [f"{module}.self_attn.{x}_proj.{kind}" for x in "qkv"]
        if names[0] not in shapes:
            continue
        if arch == "openelm":
            rows = sum(shapes[name][0] for name in names)
            yield Piece(f"{to}.attn_qkv.{kind}", (rows, *shapes[names[0]][1:]), tuple(names))
            continue
        interleaved = arch in _INTERLEAVED
        for letter, name, heads in zip("qkv", names, (sizes.heads, sizes.kv_heads, 0), strict=True):
            yield Piece(f"{to}.attn_{letter}.{kind}", shapes[name], (name,), heads if interleaved else 0)


def _no_attention(arch: str, to: str, hidden: int, head_dim: int) -> Iterator[Piece]:
    """An attention of one head whose output is zero."""
    yield Piece(f"{to}.attn_norm.weight", (hidden,), fill=1.0)
    if arch == "openelm":
        yield Piece(f"{to}.attn_q_norm.weight", (head_dim,), fill=1.0)
        yield Piece(f"{to}.attn_k_norm.weight", (head_dim,), fill=1.0)
        yield Piece(f"{to}.attn_qkv.weight", (3 * head_dim, hidden))
    else:
        for letter in "qkv":
            yield Piece(f"{to}.attn_{letter}.weight", (head_dim, hidden))
    yield Piece(f"{to}.attn_output.weight", (hidden, head_dim))


def llama3_factors(rope: Mapping[str, Any], head_dim: int) -> Iterator[float]:
    """What llama.cpp divides each rotary frequency by: Llama 3.1's stretching of the long wavelengths.

    With w = 2π / frequency, old = original_max_position_embeddings: 1 for w < old / high_freq_factor, `factor` for
    w > old / low_freq_factor, and in between 1 / ((1 - s) / factor + s), s = (old / w - low) / (high - low).
    Source: transformers' modeling_rope_utils, `_compute_llama3_parameters`.
    """
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    old = rope["original_max_position_embeddings"]
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / head_dim)
        if wavelength < old / high:
            yield 1.0
        elif wavelength > old / low:
            yield factor
        else:
            smooth = (old / wavelength - low) / (high - low)
            yield 1 / ((1 - smooth) / factor + smooth)
