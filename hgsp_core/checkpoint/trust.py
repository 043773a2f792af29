"""Code in a model directory: it is never run. docs/security.md tells users so.

transformers runs Python of a directory whose `auto_map` names it, where it is called with `trust_remote_code=True`. This package
passes False everywhere but in the fresh process that reloads a model of type `hgsp`, whose file is its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hgsp_core.checkpoint import MODEL_TYPE
from hgsp_core.checkpoint.errors import CheckpointError
from hgsp_core.files.text import read_object

MODELING_FILE = "modeling_hgsp.py"
#: what config.json names where a model needs that file
AUTO_MAP: Mapping[str, str] = {
    "AutoConfig": "modeling_hgsp.HgspConfig",
    "AutoModel": "modeling_hgsp.HgspModel",
    "AutoModelForCausalLM": "modeling_hgsp.HgspForCausalLM",
}
#: endings of files that are code, or pickles, which run code when they are opened
RUNNABLE = (".py", ".pyc", ".so", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def without_code(path: Path, config: Mapping[str, Any]) -> None:
    """Every command reads config.json through this. A config class alone is ignored: the stock one is used.

    Args:
        path: of config.json; config: its content.

    Raises:
        CheckpointError: the model has its own class, other than this package's, or an attention kernel.
    """
    own = [str(name) for auto, name in (config.get("auto_map") or {}).items() if auto.startswith("AutoModel")]
    if own and config.get("model_type") != MODEL_TYPE:
        raise CheckpointError.own_code(path, own)
    for key in _KERNELS:
        if "/" in str(config.get(key) or ""):
            raise CheckpointError.own_kernel(path, key, str(config[key]))


def require_stock_tokenizer(directory: Path) -> None:
    """Raises CheckpointError if the tokenizer has its own class; called before the tokenizer is made."""
    for path in (directory / "tokenizer_config.json", directory / "config.json"):
        try:
            named = read_object(path).get("auto_map") or {}
        except (OSError, ValueError):
            continue  # an unreadable file is reported where it is needed
        own = named.get("AutoTokenizer") if isinstance(named, dict) else named
        if own:
            names = [name for name in (own if isinstance(own, list) else [own]) if name]
            raise CheckpointError.own_tokenizer(path, list(map(str, names)))


def code_fault(directory: Path, config: Mapping[str, Any]) -> str | None:
    """What is wrong with the code that a model of type `hgsp` would run elsewhere with `trust_remote_code=True`; None = nothing."""
    if config.get("model_type") != MODEL_TYPE or "auto_map" not in config:
        return None
    if not dict(config["auto_map"] or {}).items() <= AUTO_MAP.items():
        return f"'{directory / 'config.json'}': auto_map names other code than hgsp's"
    file = directory / MODELING_FILE
    if not file.is_file():
        return f"'{file}' is missing"
    if file.read_bytes() != own_file().read_bytes():
        return f"'{file}' is not the file of this version of hgsp-core"
    return None


def own_file() -> Path:
    """This package's modeling file: what is shipped with a model, and what runs in this process."""
    return Path(__file__).with_name(MODELING_FILE)
