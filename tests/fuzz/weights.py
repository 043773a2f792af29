"""Damage to safetensors files: the header is JSON, so it can lie in every way."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random

from .mutate import damaged_bytes, damaged_text, damaged_tree

SIZES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8, "I32": 4, "I64": 8, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
Tensors = dict[str, tuple[str, list[int], bytes]]


def read(path: Path) -> tuple[Tensors, dict]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__", {})
    return {n: (t["dtype"], t["shape"], body[slice(*t["data_offsets"])]) for n, t in header.items()}, metadata


def write(path: Path, tensors: Tensors, metadata: dict) -> None:
    header, body = {"__metadata__": metadata} if metadata else {}, b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    _join(path, json.dumps(header).encode(), body)


def _join(path: Path, header: bytes, body: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)


def damaged_weights(path: Path, random: Random) -> str:
    """Change a safetensors file in place."""
    kind = random.choice(["tensor"] * 8 + ["header", "header text", "length", "bytes"])
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    if kind == "header":
        tree, said = damaged_tree(json.loads(header), random)
        _join(path, json.dumps(tree).encode(), body)
        return f"{path.name}: header: {said}"
    if kind == "header text":
        text, said = damaged_text(header.decode(), random)
        _join(path, text.encode("utf-8", "surrogatepass"), body)
        return f"{path.name}: header: {said}"
    if kind == "length":
        new = random.choice([0, 1, length - 1, length + 1, 2**63, 2**64 - 1, len(data)])
        path.write_bytes(struct.pack("<Q", new) + data[8:])
        return f"{path.name}: header of {new} bytes"
    if kind == "bytes":
        changed, said = damaged_bytes(data, random)
        path.write_bytes(changed)
        return f"{path.name}: {said}"
    tensors, metadata = read(path)
    said = _damaged_tensor(tensors, random)
    write(path, tensors, metadata)
    return f"{path.name}: {said}"


def _damaged_tensor(tensors: Tensors, random: Random) -> str:
    name = random.choice(list(tensors))
    dtype, shape, data = tensors[name]
    size = SIZES[dtype]
    kind = random.choice(
        ["gone", "renamed", "prefix", "transposed", "row less", "row more", "type", "nan", "inf", "zeros", "copy", "flat", "extra", "empty",
         "all renamed", "swapped"]
    )  # fmt: skip
    if kind == "gone":
        del tensors[name]
    elif kind == "renamed":
        tensors[random.choice([name + "x", name.removeprefix("model."), name.replace("weight", "bias"), "é", ""])] = (
            tensors.pop(name)
        )
    elif kind == "prefix":
        prefix = random.choice(["_orig_mod.", "module.", "base_model.model.", "model."])
        for n in list(tensors):
            tensors[prefix + n] = tensors.pop(n)
        return f"prefix {prefix}"
    elif kind == "all renamed":
        for n in list(tensors):
            tensors[n.removeprefix("model.")] = tensors.pop(n)
        return "prefix model. gone"
    elif kind == "transposed":
        tensors[name] = dtype, shape[::-1], data
    elif kind == "row less" and shape[0] > 1:
        row = len(data) // shape[0]
        tensors[name] = dtype, [shape[0] - 1, *shape[1:]], data[:-row]
    elif kind == "row more":
        row = len(data) // shape[0]
        tensors[name] = dtype, [shape[0] + 1, *shape[1:]], data + data[:row]
    elif kind == "type":
        new = random.choice([t for t, s in SIZES.items() if s == size] or ["U8"])
        tensors[name] = new, shape, data
        return f"{name}: {dtype} called {new}"
    elif kind in ("nan", "inf", "zeros"):
        value = {"nan": b"\xff", "inf": b"\x80\x7f" if size == 2 else b"\0\0\x80\x7f", "zeros": b"\0"}[kind]
        value = value * (size // len(value)) if len(value) < size else value[-size:]
        part = random.choice([size, len(data)])
        tensors[name] = dtype, shape, value * (part // size) + data[part:]
    elif kind == "copy":
        other = random.choice(list(tensors))
        tensors[f"{name}.copy" if random.random() < 0.5 else "lm_head.weight"] = tensors[other]
    elif kind == "flat":
        tensors[name] = dtype, [len(data) // size], data
    elif kind == "extra":
        extra = random.choice(
            ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.99.mlp.up_proj.weight", "score.weight", "x"]
        )
        tensors[extra] = "F32", [4], bytes(16)
        return f"{extra} added"
    elif kind == "empty":
        tensors[name] = dtype, [0, *shape[1:]], b""
    elif kind == "swapped":
        same = [n for n, t in tensors.items() if t[1] == shape]
        other = random.choice(same)
        tensors[name], tensors[other] = tensors[other], tensors[name]
        return f"{name} and {other} swapped"
    return f"{name}: {kind}"
