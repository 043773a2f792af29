"""Damage, drawn at random: to trees of YAML and JSON, to texts, to bytes and to files of a directory."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

#: (name of what it is, value); names are what a report shows
ODD: tuple[tuple[str, Any], ...] = (
    ("null", None),
    ("true", True),
    ("false", False),
    ("0", 0),
    ("1", 1),
    ("-1", -1),
    ("2**31", 2**31),
    ("2**63", 2**63),
    ("10**400", 10**400),
    ("0.5", 0.5),
    ("-0.0", -0.0),
    ("1e308", 1e308),
    ("nan", float("nan")),
    ("inf", float("inf")),
    ("-inf", float("-inf")),
    ("empty text", ""),
    ("blank", " \t"),
    ("'0'", "0"),
    ("'none'", "none"),
    ("'auto'", "auto"),
    ("100,000 characters", "x" * 100_000),
    ("NUL", "a\0b"),
    ("unicode", "é\u202e日本\U0001f600"),
    ("lone surrogate", "\ud800"),
    ("escapes", "\x1b[31m\x07\r"),
    ("markup", "[/b] [bold] {x} %s <b>"),
    ("two lines", "a\nb: c"),
    ("parent", "../.."),
    ("root", "/"),
    ("home", "~"),
    ("home of nobody", "~nobody-here/x"),
    ("/dev/null", "/dev/null"),
    ("name of 300 characters", "n" * 300),
    ("path of 5,000 characters", "a/" * 2_500),
    ("empty list", []),
    ("empty mapping", {}),
    ("list of null", [None]),
    ("list of lists", [[[]]]),
    ("mapping with an empty key", {"": {}}),
    ("10,000 items", list(range(10_000))),
    ("use: x", {"use": "x"}),
    ("nested 60 times", json.loads("[" * 60 + "]" * 60)),
)


def _somewhere(tree: Any, random: Random) -> tuple:
    """A way from the top to something: a key of a small mapping is met as often as one of thousands of list items."""
    way: tuple = ()
    while isinstance(tree, (dict, list)) and tree and not (way and random.random() < 0.3):
        key = random.choice(list(tree)) if isinstance(tree, dict) else random.randrange(len(tree))
        way, tree = (*way, key), tree[key]
    return way


def at(tree: Any, way: tuple) -> Any:
    for key in way:
        tree = tree[key]
    return tree


def damaged_tree(tree: Any, random: Random, times: int = 1) -> tuple[Any, str]:
    """A copy with one or more things changed, and what was."""
    said = []
    for _ in range(times):
        tree, text = _once(tree, random)
        said.append(text)
    return tree, "; ".join(said)


def _once(tree: Any, random: Random) -> tuple[Any, str]:
    tree = copy.deepcopy(tree)
    way = _somewhere(tree, random)
    if not way or random.random() < 0.01:
        name, value = random.choice(ODD)
        return copy.deepcopy(value), f"everything = {name}"
    parent, key = at(tree, way[:-1]), way[-1]
    place, value = ".".join(map(str, way)), parent[key]
    kind = random.choice(
        ["odd"] * 8 + ["delete", "delete", "rename", "add", "wrap", "unwrap", "scale", "other", "other", "edit"]
    )
    if kind == "rename" and isinstance(parent, dict):
        new = random.choice([f"{key}x", str(key).upper(), f" {key}", "", "a" * 1000, 3, None, "é", f"{key}.{key}"])
        parent[new] = parent.pop(key)
        return tree, f"{place} renamed {str(new)[:20]!r}"
    if kind == "add" and isinstance(parent, dict):
        name, odd = random.choice(ODD)
        new = random.choice(["extra", "with", "use", "model", "path", "version", "1", 7, "config"])
        parent[new] = copy.deepcopy(odd)
        return tree, f"{place.rpartition('.')[0]}.{new} = {name}"
    if kind == "delete":
        del parent[key]
        return tree, f"{place} deleted"
    if kind == "wrap":
        parent[key] = random.choice([[value], {"x": value}, [value, value]])
        return tree, f"{place} wrapped"
    if kind == "unwrap" and isinstance(value, (dict, list)) and value:
        parent[key] = next(iter(value.values())) if isinstance(value, dict) else value[0]
        return tree, f"{place} unwrapped"
    if kind == "scale" and isinstance(value, (int, float)) and not isinstance(value, bool):
        factor = random.choice([-1, 0, 0.5, 2, 3, 1000])
        parent[key] = type(value)(value * factor)
        return tree, f"{place} x {factor}"
    if kind == "other":
        other = _somewhere(tree, random)
        parent[key] = copy.deepcopy(at(tree, other))
        return tree, f"{place} = {'.'.join(map(str, other))}"
    if kind == "edit" and isinstance(value, str):
        parent[key] = damaged_text(value, random)[0]
        return tree, f"{place} edited"
    name, odd = random.choice(ODD)
    parent[key] = copy.deepcopy(odd)
    return tree, f"{place} = {name}"


YAML_BITS = (
    "!!python/object/apply:os.system [touch pwned]",
    "!!python/name:os.system",
    "&a [*a]",
    "<<: *nowhere",
    "<<: {use: x}",
    "? [a] : b",
    "? {a: b}\n: c",
    "!!bool maybe",
    "!!binary x",
    "!!int 0x",
    "!!float x",
    "!!timestamp x",
    "!!set {a, b}",
    "!!omap [a: b]",
    "2024-99-99",
    "2024-01-01",
    "12:34:56",
    "1e9999",
    ".nan",
    "0o99",
    "---\n---\n",
    "%YAML 9.9\n---\n",
    "\t",
    "\0",
    "\ufeff",
    "'",
    '"',
    "\\",
    "{",
    "[",
    ": ",
    "- ",
    "# ",
    "\n",
    "  ",
    "*a",
    "&a ",
    "!x ",
    "|\n",
    "@",
    "`",
    "\u2028",
    "9" * 5_000,
    "- " * 3_000,
)
JSON_BITS = (
    "NaN",
    "-Infinity",
    "1e9999",
    "9" * 5_000,
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '"',
    "\\",
    "\\u",
    "\\ud800",
    "\0",
    "\ufeff",
    "//",
    "null",
    "true",
)


def damaged_text(text: str, random: Random, bits: tuple[str, ...] = YAML_BITS) -> tuple[str, str]:
    """The text with one thing done to it, and what."""
    kind = random.choice(["insert"] * 4 + ["cut", "drop", "double", "swap", "empty"])
    position = random.randrange(len(text) + 1)
    if kind == "insert":
        bit = random.choice(bits)
        return text[:position] + bit + text[position:], f"{bit[:30]!r} at {position}"
    if kind == "cut":
        return text[:position], f"cut at {position}"
    end = min(len(text), position + random.randint(1, 40))
    if kind == "drop":
        return text[:position] + text[end:], f"without {position}:{end}"
    if kind == "double":
        lines = text.splitlines(keepends=True) or [""]
        line = random.randrange(len(lines))
        return "".join([*lines[:line], lines[line], *lines[line:]]), f"line {line + 1} twice"
    if kind == "swap":
        return text[:position] + text[position:end][::-1] + text[end:], f"{position}:{end} backwards"
    return "", "empty"


def damaged_bytes(data: bytes, random: Random) -> tuple[bytes, str]:
    """The same of bytes, encodings included."""
    kind = random.choice(["flip", "cut", "append", "insert", "empty", "utf-16", "deep", "latin", "zeros"])
    position = random.randrange(len(data) + 1)
    if kind == "flip" and data:
        changed = bytearray(data)
        for _ in range(random.choice([1, 1, 10, 100])):
            changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
        return bytes(changed), "bits flipped"
    if kind == "cut":
        return data[:position], f"cut at byte {position}"
    if kind == "append":
        return data + random.randbytes(random.choice([1, 8, 1000])), "bytes appended"
    if kind == "insert":
        return data[:position] + random.randbytes(3) + data[position:], f"3 bytes inserted at {position}"
    if kind == "utf-16":
        return data.decode("utf-8", "replace").encode("utf-16"), "as UTF-16"
    if kind == "deep":
        return b"[" * 100_000, "100,000 brackets"
    if kind == "latin":
        return data[:position] + b"\xe9" + data[position:], f"byte E9 at {position}"
    if kind == "zeros":
        return bytes(min(len(data), 10**6)), "zeros"
    return b"", "empty"


def damaged_json(path: Path, random: Random) -> str:
    """Change a JSON file in place."""
    kind = random.random()
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # damaged before
        kind = 1.0
    if kind < 0.75:
        tree, said = damaged_tree(tree, random, random.choice([1, 1, 1, 2, 3]))
        path.write_text(json.dumps(tree), encoding="utf-8")
    elif kind < 0.9:
        text, said = damaged_text(path.read_text(encoding="utf-8"), random, JSON_BITS)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    else:
        data, said = damaged_bytes(path.read_bytes(), random)
        path.write_bytes(data)
    return f"{path.name}: {said}"


def damaged_files(directory: Path, random: Random) -> str:
    """Do something to one of the files of a directory that anybody may do to any file."""
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    path, other = random.choice(files), random.choice(files)
    name = str(path.relative_to(directory))
    kind = random.choice(
        [
            "remove",
            "remove",
            "bytes",
            "bytes",
            "directory",
            "loop",
            "broken link",
            "device",
            "other",
            "fifo",
            "rename",
            "extra",
        ]
    )
    if kind == "bytes":
        data, said = damaged_bytes(path.read_bytes(), random)
        path.write_bytes(data)
        return f"{name}: {said}"
    if kind == "extra":
        extra = random.choice(
            ["extra.safetensors", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
             "pytorch_model.bin", "tokenizer.model", "adapter_config.json", "adapter_model.safetensors", "added_tokens.json",
             "special_tokens_map.json", "chat_template.jinja", "modeling_hgsp.py", "hgsp.json", "config.json", "generation_config.json",
             "plan.json", "report.json", "vocab.json", "merges.txt", "model.gguf"]
        )  # fmt: skip
        data = path.read_bytes() if random.random() < 0.5 else random.choice([b"", b"{}", b"[]", b"null", b"x"])
        (directory / extra).write_bytes(data)
        return f"{extra} put in ({data[:10]!r}...)"
    if kind == "rename":
        path.rename(path.with_name(random.choice(["other", f"{path.name}.bak", path.name.upper()])))
        return f"{name}: renamed"
    data = other.read_bytes()
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "broken link":
        path.symlink_to("nowhere")
    elif kind == "device":
        path.symlink_to(os.devnull)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "other":
        path.write_bytes(data)
        return f"{name}: the bytes of {other.relative_to(directory)}"
    return f"{name}: {kind}"


def copied(source: Path, destination: Path) -> Path:
    shutil.copytree(source, destination)
    return destination
